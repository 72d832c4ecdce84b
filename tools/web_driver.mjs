// Drives one Chromium for tests and benchmarks: a JSON line in for each visit, a JSON line out with what came of it.
//
// In:  {"code": "…", "args": …, "options": {…}}: the body of an async function of (page, context, args), run with a page
//      in a fresh context.
// Out: {"value": …, "requests": [url …], "console": ["type: text" …], "errors": [uncaught …]} or {"failed": "…"}.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const [, , modules, executablePath, ...flags] = process.argv;
const { chromium } = createRequire(`${modules}/`)("playwright-core");
const browser = await chromium.launch({ executablePath, headless: true, args: flags });
const AsyncFunction = (async () => {}).constructor;

async function visit({ code, args, options }) {
  const context = await browser.newContext(options ?? {});
  const seen = { requests: [], console: [], errors: [] };
  context.on("request", (request) => seen.requests.push(request.url()));
  context.on("console", (message) => seen.console.push(`${message.type()}: ${message.text()}`));
  context.on("weberror", (error) => seen.errors.push(String(error.error())));
  try {
    const page = await context.newPage();
    page.setDefaultTimeout(20000);
    page.on("crash", () => seen.errors.push("the page crashed"));
    const value = await new AsyncFunction("page", "context", "args", code)(page, context, args);
    return { value: value ?? null, ...seen };
  } catch (error) {
    return { failed: String(error), ...seen };
  } finally {
    await context.close();
  }
}

console.log(JSON.stringify({ version: browser.version() }));
for await (const line of createInterface({ input: process.stdin })) console.log(JSON.stringify(await visit(JSON.parse(line))));
await browser.close();
