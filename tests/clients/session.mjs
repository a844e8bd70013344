/* One session of a TypeScript client, driven by lines of JSON on standard input; each answer is a line of JSON on standard output.
   node session.mjs v1|v2 '{"command": …} or {"url": …}' accept|decline|cancel|none */
import { createInterface } from "node:readline";

const [generation, target, reply] = process.argv.slice(2);
const isNew = generation === "v2";
const sdk = isNew
  ? await import("@modelcontextprotocol/client")
  : {
      ...(await import("@modelcontextprotocol/sdk/client/index.js")),
      ...(await import("@modelcontextprotocol/sdk/client/streamableHttp.js")),
      ...(await import("@modelcontextprotocol/sdk/types.js")),
    };
const { StdioClientTransport } = await import(isNew ? "@modelcontextprotocol/client/stdio" : "@modelcontextprotocol/sdk/client/stdio.js");

const capabilities = reply === "none" ? {} : { elicitation: {} };
const options = isNew ? { capabilities, versionNegotiation: { mode: "auto" } } : { capabilities };
const client = new sdk.Client({ name: `typescript-${generation}`, version: "1" }, options);
const asked = [];
if (reply !== "none") {
  client.setRequestHandler(isNew ? "elicitation/create" : sdk.ElicitRequestSchema, async (request) => {
    asked.push(request.params.message);
    return reply === "accept" ? { action: "accept", content: { agreed: true } } : { action: reply };
  });
}

const { url, token, ...command } = JSON.parse(target);
const headers = token ? { Authorization: `Bearer ${token}` } : {};
const transport = url ? new sdk.StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }) : new StdioClientTransport({ ...command, stderr: "pipe" });
await client.connect(transport);

async function carryOut({ method, params, timeout }) {
  const progress = [];
  const settings = { timeout: timeout ?? 60000, onprogress: (told) => progress.push(told) };
  if (method === "tools") return (await client.listTools()).tools;
  if (method === "prompts") return (await client.listPrompts()).prompts;
  if (method === "resource") return (await client.readResource(params)).contents;
  if (method === "complete") return (await client.complete(params)).completion.values;
  if (method === "server") return { info: client.getServerVersion(), instructions: client.getInstructions(), capabilities: client.getServerCapabilities() };
  if (method === "call") {
    const answer = isNew ? await client.callTool(params, settings) : await client.callTool(params, undefined, settings);
    return { answer, progress, asked: asked.splice(0) };
  }
  throw new Error(`No method ${method}.`);
}

for await (const line of createInterface({ input: process.stdin })) {
  let told;
  try {
    told = { result: await carryOut(JSON.parse(line)) };
  } catch (error) {
    told = { error: String(error?.message ?? error), code: error?.code ?? null };
  }
  process.stdout.write(`${JSON.stringify(told)}\n`);
}
await client.close();
