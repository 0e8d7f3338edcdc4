// The ordinary calls of OpenAI's JavaScript client; prints what it got as JSON.
import { createRequire } from "node:module";

const [, , modules, baseURL, apiKey] = process.argv;
const require = createRequire(modules + "/");
const { OpenAI, toFile } = require("openai");
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const ask = { model: "smol", messages: [{ role: "user", content: "hi" }] };

const found = {};
found.models = (await client.models.list()).data.map((model) => model.id);
const answer = await client.chat.completions.create(ask);
found.chat = answer.choices[0].message.content;
found.stream = "";
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true }))
  found.stream += chunk.choices[0]?.delta?.content ?? "";
const embedded = await client.embeddings.create({
  model: "smol",
  input: "hi",
  encoding_format: "float",
});
found.embedding = embedded.data[0].embedding;
const response = await client.responses.create({ model: "smol", input: "hi" });
found.response = (await client.responses.retrieve(response.id)).output_text;
const file = await client.files.create({
  file: await toFile(Buffer.from("{}"), "in.jsonl"),
  purpose: "batch",
});
found.file = await (await client.files.content(file.id)).text();
try {
  await client.chat.completions.create({ ...ask, model: "other" });
} catch (error) {
  found.error = [error.status, error.code];
}
process.stdout.write(JSON.stringify(found));
