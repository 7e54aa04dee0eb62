import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { ROOT } from "../tools/fixtures.js";

const FOLDER = join(ROOT, "js");

test("the package contains its modules and their types, and nothing else", () => {
  const listed = execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
    cwd: FOLDER,
    stdio: "pipe",
  });
  const [{ files }] = JSON.parse(String(listed));
  const paths = new Set(files.map((/** @type {{ path: string }} */ { path }) => path));
  for (const path of ["LICENSE", "README.md", "package.json", "src/index.js", "src/worker.js"]) {
    assert.ok(paths.has(path), path);
  }
  const others = [...paths].filter((path) => !/^(src|types)\/|^(LICENSE|README\.md|package\.json)$/.test(path));
  assert.deepEqual(others, []);
  if (existsSync(join(FOLDER, "types"))) assert.ok(paths.has("types/index.d.ts") && paths.has("types/serve.d.ts"));
});

test("the exports of the package exist", async () => {
  const { exports } = JSON.parse(readFileSync(join(FOLDER, "package.json"), "utf8"));
  for (const entry of Object.values(exports)) {
    assert.ok(existsSync(join(FOLDER, entry.default ?? entry)));
  }
  // A package can import itself by its own name.
  const charrnn = await import(/** @type {string} */ ("charrnn"));
  for (const name of ["load", "CharRNN", "State", "Vocabulary", "CharRNNError", "SettingError"]) {
    assert.equal(typeof charrnn[name], "function", name);
  }
});

test("the lockfile names no registry, and modules stay short", () => {
  const lock = readFileSync(join(FOLDER, "package-lock.json"), "utf8");
  assert.ok(!lock.includes('"resolved"'));
  const paths = ["src", "src/format", "test", "tools", "demo"].flatMap((folder) =>
    readdirSync(join(FOLDER, folder)).map((name) => join(FOLDER, folder, name)),
  );
  for (const path of paths.filter((each) => each.endsWith(".js"))) {
    const text = readFileSync(path, "utf8");
    assert.ok(text.split("\n").length <= 350, path);
    assert.ok(
      text.split("\n").every((line) => line.length <= 130),
      path,
    );
  }
});
