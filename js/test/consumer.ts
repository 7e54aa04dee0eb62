// A TypeScript program that uses the package's types: `npm run check` compiles it, after `npm run types`.

import { load, State, type Options, type Score } from "charrnn";
import * as ort from "onnxruntime-node";
const options: Options = { length: 5, topK: 3, stop: ["a"] };
const model = await load("x.onnx", { ort });
const one: string = await model.generate("a", options);
const many: string[] = await model.generate(["a", "b"], options);
const state: State = await model.prime("a");
const more: string[] = await model.generate(state.fork(3));
for await (const piece of model.stream("a", { state })) {
  const text: string = piece;
  void text;
}
const score: Score = await model.score("a");
const scores: Score[] = await model.score(["a"]);
for await (const each of model.generateEach(["a"])) {
  const data: Uint8Array = each.data;
  void data;
  void each.state.length;
}
// @ts-expect-error
await model.generate("a", { topk: 3 });
void [one, many, more, score, scores];
