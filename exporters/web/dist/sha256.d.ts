/** SHA-256 of bytes, 64 hexadecimal digits. */
export declare function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string>;
/** The same without the browser's help: pages that come over http have no crypto.subtle. */
export declare function digest(bytes: Uint8Array): Uint8Array;
