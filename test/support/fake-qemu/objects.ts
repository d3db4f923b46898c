import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { OptionObject } from './argv.js';
import { FakeQmpError } from './errors.js';
import type { PskCredentials } from './nbd-client.js';

interface Credentials {
  readonly keys: ReadonlyMap<string, string>;
  readonly client: PskCredentials | undefined;
}

/** The objects of `object-add`. Pre-shared keys are really read from their folder. */
export class FakeObjects {
  readonly #objects = new Map<
    string,
    { readonly type: string; readonly credentials: Credentials | undefined }
  >();

  add(options: OptionObject): void {
    const id = String(options['id']);
    if (this.#objects.has(id)) {
      throw new FakeQmpError(
        `attempt to add duplicate property '${id}' to object (type 'container')`,
      );
    }
    const type = String(options['qom-type']);
    const credentials = type === 'tls-creds-psk' ? readCredentials(options) : undefined;
    this.#objects.set(id, { type, credentials });
  }

  /** Lists them as `qom-list` does. */
  list(): readonly { readonly name: string; readonly type: string }[] {
    return [...this.#objects].map(([name, { type }]) => ({ name, type: `child<${type}>` }));
  }

  remove(id: string): void {
    if (!this.#objects.delete(id)) throw new FakeQmpError(`object '${id}' not found`);
  }

  /** Returns the keys that a server takes, by identity. */
  serverKeys(id: string): ReadonlyMap<string, string> {
    return this.#credentials(id).keys;
  }

  /** Returns what a client shows. */
  clientCredentials(id: string): PskCredentials {
    const { client } = this.#credentials(id);
    if (!client) throw new FakeQmpError('Expected TLS credentials for a client endpoint');
    return client;
  }

  #credentials(id: string): Credentials {
    const credentials = this.#objects.get(id)?.credentials;
    if (!credentials) throw new FakeQmpError(`No TLS credentials with id '${id}'`);
    return credentials;
  }
}

function readCredentials(options: OptionObject): Credentials {
  const path = join(String(options['dir']), 'keys.psk');
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    throw new FakeQmpError(`Unable to access credentials ${path}: No such file or directory`);
  }
  const keys = new Map(
    text
      .split('\n')
      .filter((line) => line !== '')
      .map((line): [string, string] => {
        const colon = line.indexOf(':');
        return [line.slice(0, colon), line.slice(colon + 1)];
      }),
  );
  if (options['endpoint'] === 'server') return { keys, client: undefined };
  const identity = String(options['username'] ?? 'qemu');
  const key = keys.get(identity);
  if (key === undefined)
    throw new FakeQmpError(`Username ${identity} not found in PSK file ${path}`);
  return { keys, client: { identity, key } };
}
