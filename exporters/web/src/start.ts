// The page's start: it keeps the page for offline use, checks its files, and says in words what is wrong with one.
//
// index.html vouches for this file and for files.js by their hashes, files.js for all others, and the artifact's
// manifest for the artifact. A plain script, so that a damaged module is an error that can be caught.

/** files.js: what the package is made of. A hash of "" is of a file that index.html vouches for, or that is it. */
interface DashdeployFiles {
  readonly version: string;
  readonly files: Record<string, string>;
}

(() => {
  const shipped = (globalThis as unknown as { DASHDEPLOY?: DashdeployFiles }).DASHDEPLOY;
  const CONTROL_MS = 3000; // longest wait for the service worker

  const element = (id: string) => document.getElementById(id) as HTMLElement;

  function complain(text: string): void {
    element("alert").textContent = text;
    element("alert").hidden = false;
    element("progress").hidden = true;
    element("status").textContent = "";
  }

  async function digest(bytes: ArrayBuffer): Promise<string> {
    const made = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return Array.from(made, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  /** Refuse a file of the page itself that is missing or changed; http without TLS has no hashes, as of files.js. */
  async function check(name: string, expected: string): Promise<void> {
    const response = await fetch(name, { cache: "no-cache" }).catch((error: unknown) => {
      throw new Error(`${name}: cannot be read (${String((error as Error).message)})`);
    });
    if (response.status === 404) throw new Error(`${name}: no such file`);
    if (!response.ok) throw new Error(`${name}: cannot be read (HTTP ${response.status})`);
    const bytes = await response.arrayBuffer();
    if (crypto.subtle !== undefined && (await digest(bytes)) !== expected) {
      throw new Error(`${name}: damaged or changed since it was made (its SHA-256 differs from files.js's)`);
    }
  }

  /** Whether the service worker serves this page: then it keeps every file as it comes. */
  async function keep(): Promise<ServiceWorkerRegistration | null> {
    if (!("serviceWorker" in navigator)) return null;
    const made = await navigator.serviceWorker.register("sw.js", { updateViaCache: "none" }).catch(() => null);
    const registration = (made as ServiceWorkerRegistration | null | undefined) ?? null; // undefined: it is blocked
    if (registration === null || registration.active !== null) return registration;
    await new Promise<void>((resolve) => {
      navigator.serviceWorker.addEventListener("controllerchange", () => resolve(), { once: true });
      setTimeout(resolve, CONTROL_MS);
    });
    return registration;
  }

  /** Have everything kept, by the service worker that serves this page or will serve it the next time. */
  function offline(registration: ServiceWorkerRegistration | null): void {
    const mark = element("offline");
    if (registration === null) {
      mark.textContent = "Not kept for offline use: that takes https, and a browser that keeps pages.";
      return;
    }
    navigator.serviceWorker.addEventListener("message", ({ data }) => {
      if (data === "kept") mark.textContent = "Kept for offline use.";
    });
    navigator.serviceWorker.startMessages(); // a page gets none by itself before it has loaded
    void navigator.serviceWorker.ready.then(({ active }) => active?.postMessage("keep all"));
  }

  /** Offer a newer version of the package, where the server has one. */
  function offer(registration: ServiceWorkerRegistration): void {
    const show = () => {
      if (registration.waiting === null || !navigator.serviceWorker.controller) return;
      const button = element("newer");
      button.hidden = false;
      button.onclick = () => registration.waiting?.postMessage("take over");
      navigator.serviceWorker.addEventListener("controllerchange", () => location.reload(), { once: true });
    };
    show();
    registration.addEventListener("updatefound", () => {
      registration.installing?.addEventListener("statechange", show);
    });
  }

  async function start(): Promise<void> {
    if (shipped === undefined) throw new Error("files.js: missing or damaged");
    const { files } = shipped;
    const own = Object.keys(files).filter((name) => files[name] !== "" && !name.startsWith("artifact/"));
    await check("sw.js", files["sw.js"] ?? "");
    const registration = await keep();
    if (registration !== null) offer(registration); // even if this version cannot start: the newer one may
    const module = (name: string) => !name.endsWith(".gzip"); // the WASM is checked when it is unpacked
    const checks = own.filter((name) => name !== "sw.js" && module(name)).map((name) => check(name, files[name] ?? ""));
    for (const checked of await Promise.allSettled(checks)) if (checked.status === "rejected") throw checked.reason;
    const page = (await import("./page.js")) as { main(): Promise<void> };
    await page.main();
    offline(registration);
  }

  element("alert").hidden = true; // it says what holds where this script does not run
  element("alert").className = "alert";
  const started = start();
  started.catch((error: unknown) => complain(`${String((error as Error).message ?? error)}.`));
})();
