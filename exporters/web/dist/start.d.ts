/** files.js: what the package is made of. A hash of "" is of a file that index.html vouches for, or that is it. */
interface DashdeployFiles {
    readonly version: string;
    readonly files: Record<string, string>;
}
