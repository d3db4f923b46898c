const SECRET_KEYS: ReadonlySet<string> = new Set([
  'password',
  'psk',
  'secret',
  'key-secret',
  'keyid',
]);

/** Copies a message with its secrets replaced, fit for a log. */
export function redact(message: unknown): unknown {
  if (Array.isArray(message)) return message.map(redact);
  if (typeof message !== 'object' || message === null) return message;
  const isSecretObject = (message as { 'qom-type'?: unknown })['qom-type'] === 'secret';
  return Object.fromEntries(
    Object.entries(message).map(([key, value]) => [
      key,
      SECRET_KEYS.has(key) || (isSecretObject && key === 'data') ? '<redacted>' : redact(value),
    ]),
  );
}
