// Talks to the API beside this page. Addresses are relative: the page works below any path.

const BASE = new URL("../", document.baseURI);
export const AIRFLOW = new URL("../../", document.baseURI);

const remembered = new Map();

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function addressOf(path, query = {}) {
  const address = new URL(path.replace(/^\//, ""), BASE);
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== null && each !== undefined && each !== "") address.searchParams.append(name, each);
    }
  }
  return address;
}

// Asks for something; what has not changed since is not sent again.
export async function get(path, query = {}, { signal } = {}) {
  const address = addressOf(path, query).href;
  const known = remembered.get(address);
  const headers = known ? { "If-None-Match": known.tag } : {};
  const answer = await fetch(address, { headers, signal, cache: "no-store", credentials: "same-origin" });
  if (answer.status === 304 && known) return known.content;
  const content = await contentOf(answer);
  const tag = answer.headers.get("ETag");
  if (tag) {
    remembered.delete(address);
    remembered.set(address, { tag, content });
    if (remembered.size > 50) remembered.delete(remembered.keys().next().value);
  }
  return content;
}

export async function post(path, body) {
  const answer = await fetch(addressOf(path), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    credentials: "same-origin",
  });
  return contentOf(answer);
}

async function contentOf(answer) {
  const text = await answer.text();
  let content = null;
  try {
    content = JSON.parse(text);
  } catch {
    // Something between us and the server answered.
  }
  if (answer.ok && content !== null) return content;
  const detail = content?.detail;
  const words = Array.isArray(detail) ? detail.map((each) => each.msg).join("; ") : detail;
  throw new Refused(answer.status, words || `HTTP ${answer.status}`);
}
