/** Open the artifact and make the page ready. @throws DashdeployError: the artifact cannot be opened. */
export declare function main(): Promise<void>;
/** One line for all, read out when there is time. */
export declare function tell(text: string): void;
/** One line that is read out at once. */
export declare function complain(text: string): void;
