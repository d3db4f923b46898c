/**
 * Turns a message of the generated code into the JSON that `--json` prints: the field names and the
 * enum names of the proto files, times as RFC 3339. Every field is there, also when it is zero or
 * empty; only an unset message is left out. Any proto3 JSON reader accepts the result.
 */
export function toJson(value: unknown): unknown {
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map(toJson);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key, field]) => field !== undefined && !HIDDEN.has(key))
      .map(([key, field]) => [toFieldName(key), key === 'metadata' ? field : toJson(field)]),
  );
}

/** Fields of the generated code that are not of the message. */
const HIDDEN: ReadonlySet<string> = new Set(['_unknownFields']);

function toFieldName(key: string): string {
  return key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
