// The service worker: keeps the package's files as they are first asked for, and serves them from then on, offline too.
//
// Each version of the package has a cache of its own, and takes over when the page says so or when its last tab is
// closed: files of two versions are never mixed. It adds the headers of cross-origin isolation where the host sends
// none, and the page's Content-Security-Policy, which a worker does not inherit.

(() => {
  interface Client {
    postMessage(message: string): void;
  }
  interface Lasting extends Event {
    waitUntil(work: Promise<unknown>): void;
  }
  interface Fetched extends Lasting {
    readonly request: Request;
    respondWith(response: Promise<Response>): void;
  }
  interface Said extends Lasting {
    readonly data: unknown;
    readonly source: Client | null;
  }
  interface Scope {
    readonly registration: { readonly scope: string };
    readonly clients: { claim(): Promise<void> };
    readonly DASHDEPLOY: { readonly version: string; readonly files: Record<string, string> };
    importScripts(name: string): void;
    skipWaiting(): Promise<void>;
    addEventListener(name: "install" | "activate", listener: (event: Lasting) => void): void;
    addEventListener(name: "fetch", listener: (event: Fetched) => void): void;
    addEventListener(name: "message", listener: (event: Said) => void): void;
  }

  const worker = globalThis as unknown as Scope;
  worker.importScripts("files.js");
  const { version, files } = worker.DASHDEPLOY;
  const home = worker.registration.scope;
  const prefix = `dashdeploy ${home} `; // caches are the whole host's
  const ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy":
      "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; " +
      "img-src 'self' data:; style-src 'self'; base-uri 'none'; form-action 'none'",
  };
  const INDEX = "index.html";
  const LIST = "files.js";

  /** The package's file that a URL means; null: none. */
  function nameOf(url: string): string | null {
    const path = url.replace(/[?#].*$/, "");
    if (!path.startsWith(home)) return null;
    const name = path.slice(home.length) || INDEX;
    return Object.hasOwn(files, name) ? name : null;
  }

  async function fits(name: string, bytes: ArrayBuffer): Promise<boolean> {
    if (files[name] === "") return true; // index.html, and what it vouches for
    const made = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return Array.from(made, (byte) => byte.toString(16).padStart(2, "0")).join("") === files[name];
  }

  function isolated(body: BodyInit, from: Response): Response {
    const headers = new Headers(ISOLATION);
    headers.set("Content-Type", from.headers.get("Content-Type") ?? "application/octet-stream");
    return new Response(body, { status: from.status, statusText: from.statusText, headers });
  }

  /** A file, kept if it is the one that the package was written with; another one is the page's to refuse. */
  async function serve(name: string): Promise<Response> {
    const cache = await caches.open(prefix + version);
    const place = home + name;
    const kept = await cache.match(place);
    if (kept !== undefined) return isolated(await kept.arrayBuffer(), kept);
    const response = await fetch(place, { cache: "no-cache" });
    const bytes = await response.arrayBuffer();
    if (response.ok && (await fits(name, bytes))) {
      await cache.put(place, isolated(bytes, response)).catch(() => undefined); // a full disk is no reason to fail
    }
    return isolated(bytes, response);
  }

  async function forget(): Promise<void> {
    const old = (await caches.keys()).filter((key) => key.startsWith(prefix) && key !== prefix + version);
    await Promise.all(old.map((key) => caches.delete(key)));
  }

  async function keepAll(page: Client | null): Promise<void> {
    for (const name of Object.keys(files)) await serve(name);
    const cache = await caches.open(prefix + version);
    if ((await cache.keys()).length >= Object.keys(files).length) page?.postMessage("kept");
  }

  /** Keep what is not served through this worker on the first visit: the page itself, and what it is made of.
   *
   * While a newer package is being put in place the two may be of unlike versions: then the install fails, and the
   * browser tries again at the next visit.
   */
  async function install(): Promise<void> {
    const [list, page] = await Promise.all([LIST, INDEX].map((name) => fetch(home + name, { cache: "no-cache" })));
    if (list?.ok !== true || page?.ok !== true) throw new Error(`${LIST} or ${INDEX} cannot be read`);
    const [listed, text] = [await list.arrayBuffer(), await page.text()];
    const made = new Uint8Array(await crypto.subtle.digest("SHA-256", listed));
    if (!new TextDecoder().decode(listed).includes(`"version": "${version}"`)) throw new Error(`${LIST} has changed`);
    const integrity = `sha256-${btoa(String.fromCharCode(...made))}`;
    if (!text.includes(integrity)) throw new Error(`${INDEX} is of another version`);
    const cache = await caches.open(prefix + version);
    await cache.put(home + LIST, isolated(listed, list));
    await cache.put(home + INDEX, isolated(text, page));
  }

  worker.addEventListener("install", (event) => event.waitUntil(install()));
  worker.addEventListener("activate", (event) => event.waitUntil(forget().then(() => worker.clients.claim())));
  worker.addEventListener("fetch", (event) => {
    const name = event.request.method === "GET" ? nameOf(event.request.url) : null;
    if (name !== null) event.respondWith(serve(name));
  });
  worker.addEventListener("message", (event) => {
    if (event.data === "take over") event.waitUntil(worker.skipWaiting());
    if (event.data === "keep all") event.waitUntil(keepAll(event.source).catch(() => undefined));
  });
})();
