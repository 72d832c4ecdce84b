/** A number as C++ streams print it: six significant digits, `1e+06`, `nan`, `inf`. */
export declare function shown(value: number): string;
/** The nearest whole number; of two, the even one. */
export declare function nearest(value: number): number;
