/** A static server for the tests, and pages of Debian's Chromium on it. */

import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

import { chromium } from "playwright-core";

import { ROOT, quick } from "./fixtures.js";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".css": "text/css",
  ".json": "application/json",
  ".wasm": "application/wasm",
};

/** What the demo page's policy allows, and no more. */
export const POLICY = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'";

const CHROMIUM = [process.env.CHARRNN_CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser"];
const executablePath = CHROMIUM.find((path) => path && existsSync(path));

/** Why tests with a browser are skipped; false if there is one. */
export const noBrowser = executablePath ? false : "needs Chromium: apt-get install chromium";

/**
 * Serve a folder as any static host would, under a path.
 *
 * @param {string} folder
 * @param {string} [prefix]
 * @param {Record<string, string>} [pages] made up, by their path.
 */
export async function serveFolder(folder, prefix = "/", pages = {}) {
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(String(request.url), "http://localhost").pathname);
    const headers = { "content-security-policy": POLICY };
    if (path === "/favicon.ico") {
      response.writeHead(204).end();
      return;
    }
    if (Object.hasOwn(pages, path)) {
      const type = extname(path) === ".js" ? "text/javascript" : "text/html; charset=utf-8";
      response.writeHead(200, { ...headers, "content-type": type }).end(pages[path]);
      return;
    }
    const relative = path.startsWith(prefix) ? normalize(path.slice(prefix.length) || "index.html") : "..";
    const file = join(folder, relative.endsWith("/") ? `${relative}index.html` : relative);
    if (relative.startsWith("..") || !existsSync(file) || !statSync(file).isFile()) {
      response.writeHead(404, headers).end("not found");
      return;
    }
    const type = TYPES[/** @type {keyof typeof TYPES} */ (extname(file))] ?? "application/octet-stream";
    const size = statSync(file).size; // of onnxruntime 14 MB, which pages need not fetch again
    const kept = { "content-length": size, "cache-control": "max-age=600" };
    response.writeHead(200, { ...headers, ...kept, "content-type": type });
    createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return { origin: `http://127.0.0.1:${port}${prefix}`, close: () => server.close() };
}

/** What the quick form spares: compiling onnxruntime anew, with the optimizing compiler, for each page that loads it. */
const faster = quick ? ["--js-flags=--liftoff-only"] : [];

/** Start Chromium. @param {string[]} more */
export function startBrowser(...more) {
  return chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage", ...faster, ...more] });
}

/** The folder that tests in browsers see: the repository. */
export const SERVED = ROOT;
