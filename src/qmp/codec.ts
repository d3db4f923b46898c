import { QmpProtocolError } from './errors.js';

/** Largest message taken from QEMU. The schema, its largest honest answer, has some 200 KiB. */
const MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024;

/**
 * Deepest nesting taken from QEMU. Block graphs are the deepest honest answers, at some 20 levels.
 */
const DEPTH_LIMIT = 200;

/**
 * How many pieces of an unfinished line are kept before they are joined, at least: each costs far
 * more than the byte that it may hold.
 */
const PARTS_LIMIT = 256;

/**
 * A JSON object as received. Looking up `__proto__` in it finds nothing but what the sender sent.
 */
export type JsonObject = { readonly [key: string]: unknown };

/**
 * Cuts a byte stream into lines and each line into a JSON object. QEMU's answers are parsed as
 * those of a stranger, because a guest that took its QEMU over writes them: size and depth are
 * bounded and `__proto__` is refused.
 */
export class MessageDecoder {
  readonly #limitBytes: number;
  #parts: Buffer[] = [];
  #sizeBytes = 0;

  constructor(limitBytes: number = MESSAGE_LIMIT_BYTES) {
    this.#limitBytes = limitBytes;
  }

  /** Takes the next bytes and returns the messages they complete; throws QmpProtocolError. */
  push(chunk: Buffer): readonly JsonObject[] {
    const messages: JsonObject[] = [];
    let start = 0;
    for (let end = chunk.indexOf(10, start); end >= 0; end = chunk.indexOf(10, start)) {
      this.#keep(chunk.subarray(start, end));
      const line = this.#whole().toString('utf8').trim();
      this.#parts = [];
      this.#sizeBytes = 0;
      start = end + 1;
      if (line !== '') messages.push(parseObject(line));
    }
    this.#keep(chunk.subarray(start));
    return messages;
  }

  #keep(part: Buffer): void {
    if (part.length === 0) return;
    this.#sizeBytes += part.length;
    if (this.#sizeBytes > this.#limitBytes) {
      throw new QmpProtocolError(`QEMU sent a message of more than ${this.#limitBytes} bytes.`);
    }
    this.#parts.push(part);
    // Pieces of one byte each would take a hundred times the limit; joining also lets go of the
    // larger buffers that they are cut from.
    if (this.#parts.length >= Math.max(PARTS_LIMIT, this.#sizeBytes / PARTS_LIMIT)) this.#whole();
  }

  #whole(): Buffer {
    const whole = Buffer.concat(this.#parts);
    this.#parts = [whole];
    return whole;
  }
}

/** Writes one message, ready to send. */
export function encodeMessage(message: object): string {
  return `${JSON.stringify(message)}\n`;
}

function parseObject(line: string): JsonObject {
  assertDepth(line);
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new QmpProtocolError('QEMU sent a line that is not JSON.', { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new QmpProtocolError('QEMU sent a message that is not a JSON object.');
  }
  // A parser with a function for every value would take seconds for the longest message.
  if (PROTOTYPE.test(line)) refusePrototype(value);
  return value as JsonObject;
}

/** The key itself, or any letter of it written as an escape. */
const PROTOTYPE = /__proto__|\\u00[567]/i;

/** The depth is bounded by now. */
function refusePrototype(value: unknown): void {
  if (typeof value !== 'object' || value === null) return;
  if (Object.hasOwn(value, '__proto__')) {
    throw new QmpProtocolError('QEMU sent an object with the key "__proto__".');
  }
  for (const child of Array.isArray(value) ? value : Object.values(value)) refusePrototype(child);
}

/**
 * Counts brackets outside of strings before parsing, because the parser recurses and would overflow
 * the stack.
 */
function assertDepth(line: string): void {
  let depth = 0;
  let inString = false;
  for (let index = 0; index < line.length; index++) {
    const code = line.charCodeAt(index);
    if (inString) {
      if (code === 0x5c) index++;
      else if (code === 0x22) inString = false;
    } else if (code === 0x22) inString = true;
    else if (code === 0x7b || code === 0x5b) {
      depth++;
      if (depth > DEPTH_LIMIT) {
        throw new QmpProtocolError(
          `QEMU sent a message nested more than ${DEPTH_LIMIT} levels deep.`,
        );
      }
    } else if (code === 0x7d || code === 0x5d) depth--;
  }
}
