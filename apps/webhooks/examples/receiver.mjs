// A webhook receiver in Node.js 18 or newer. Run: WEBHOOK_SECRET=… node receiver.mjs 8001
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const SECRET = process.env.WEBHOOK_SECRET;
const TOLERANCE_SECONDS = 300;
const processed = new Set(); // use your database: a webhook may come again

// Return true if the body (a Buffer) was signed with the secret within the last five minutes.
function isAuthentic(body, header) {
  const entries = new Map(header.split(",").map((entry) => entry.trim().split("=", 2)));
  const timestamp = entries.get("t") ?? "";
  entries.delete("t");
  if (!/^\d+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_SECONDS) {
    return false;
  }
  const expected = createHmac("sha256", SECRET).update(`${timestamp}.`).update(body).digest();
  // During a rotation there are two signatures: one of them is made with your secret.
  return [...entries.values()].some((received) => {
    const signature = Buffer.from(received ?? "", "hex");
    return signature.length === expected.length && timingSafeEqual(signature, expected);
  });
}

createServer(async (request, response) => {
  // The signature covers the bytes as they came: verify them before you parse them.
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts);
  if (!isAuthentic(body, request.headers["webhook-signature"] ?? "")) {
    response.writeHead(401).end("the signature is not right");
    return;
  }
  const id = request.headers["webhook-id"];
  if (!processed.has(id)) {
    processed.add(id);
    console.log("received", JSON.parse(body).event);
  }
  response.writeHead(200).end("received");
}).listen(Number(process.argv[2]), "127.0.0.1");
