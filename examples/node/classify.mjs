// The same bundle under Node: texts, one a line on standard input, to JSON lines with intents and probabilities.
//
//     npm ci && node classify.mjs ../../bundles/model [fp32|q8] < texts.txt
//
// pipeline("text-classification", folder) reads the folder too; it gives scores before calibration and knows no
// thresholds, so the two are applied here. Of a text longer than the model's window only the beginning is read.

import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { AutoModelForSequenceClassification, AutoTokenizer, env } from "@huggingface/transformers";

if (process.argv.length < 3) {
  console.error("usage: node classify.mjs BUNDLE [fp32|q8] < texts.txt");
  process.exit(2);
}
const folder = resolve(process.argv[2]);
const dtype = process.argv[3] ?? "q8"; // onnx/model_quantized.onnx; fp32 is onnx/model.onnx
env.allowRemoteModels = false;

const { labels, task, temperature, thresholds, max_length } = JSON.parse(
  await readFile(resolve(folder, "communique.json"), "utf8"),
);
const tokenizer = await AutoTokenizer.from_pretrained(folder);
const model = await AutoModelForSequenceClassification.from_pretrained(folder, { dtype });

function probabilities(logits) {
  const scaled = logits.map((logit) => logit / temperature);
  if (task === "multi_label") return scaled.map((value) => 1 / (1 + Math.exp(-value)));
  const powers = scaled.map((value) => Math.exp(value - Math.max(...scaled)));
  const total = powers.reduce((sum, power) => sum + power);
  return powers.map((power) => power / total);
}

function decided(values) {
  if (task === "multi_label") return labels.filter((_, i) => values[i] >= thresholds[i]);
  return [labels[values.indexOf(Math.max(...values))]];
}

for await (const text of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  const { logits } = await model(tokenizer(text, { truncation: true, max_length }));
  const values = probabilities(Array.from(logits.data));
  const named = Object.fromEntries(labels.map((label, i) => [label, values[i]]));
  console.log(JSON.stringify({ intents: decided(values), probabilities: named }));
}
