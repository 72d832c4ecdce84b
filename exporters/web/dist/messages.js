// What the page and its worker say to each other.
import {} from "./errors.js";
import {} from "./ort.js";
//# sourceMappingURL=messages.js.map