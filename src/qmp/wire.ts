import type { Socket } from 'node:net';
import { deferred } from '../util/deferred.js';
import { type JsonObject, MessageDecoder } from './codec.js';
import { QmpClosedError } from './errors.js';
import { connectHanding } from './handing-pipe.js';

/** The socket with its decoder. Holds back what arrives until the client is there to take it. */
export class Wire {
  readonly socket: Socket;
  /** The first message: QEMU's greeting. */
  readonly first: Promise<JsonObject>;
  onMessage: ((message: JsonObject) => void) | undefined;
  onEnd: ((error: unknown) => void) | undefined;

  constructor(path: string, messageLimitBytes: number | undefined) {
    const first = deferred<JsonObject>();
    this.first = first.promise;
    this.first.catch(() => undefined);
    const decoder = new MessageDecoder(messageLimitBytes);
    let failure: unknown;
    this.socket = connectHanding(path);
    this.socket.on('data', (chunk) => {
      try {
        for (const message of decoder.push(chunk)) {
          if (this.onMessage) this.onMessage(message);
          else first.resolve(message);
        }
      } catch (error) {
        failure = error;
        this.socket.destroy();
      }
    });
    this.socket.on('error', (error) => {
      failure ??= error;
    });
    this.socket.on('close', () => {
      first.reject(
        new QmpClosedError(`The QEMU monitor ${path} closed the connection.`, { cause: failure }),
      );
      this.onEnd?.(failure ?? new Error('QEMU closed the connection.'));
    });
  }
}
