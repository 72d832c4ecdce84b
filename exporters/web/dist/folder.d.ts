/** Whether this is Node. Bundlers must not follow the imports of its modules. */
export declare const IN_NODE: boolean;
export declare class Folder {
    /** What messages call it, and what names are put behind. */
    readonly name: string;
    /** @param folder a URL, relative to the page, or in Node a path or a file URL; with or without a slash at its end */
    constructor(folder: string | URL);
    /** What messages call a file. */
    path(file: string): string;
    /**
     * The bytes of a file.
     *
     * @param most of bytes
     * @param missing what the message says of a file that is not there
     * @param signal stops the download
     * @throws DashdeployError: `not found`, `damaged` where there are more bytes than `most`, or `cancelled`.
     */
    read(file: string, { most, missing, signal }?: {
        most?: number;
        missing?: string;
        signal?: AbortSignal | undefined;
    }): Promise<Uint8Array<ArrayBuffer>>;
}
