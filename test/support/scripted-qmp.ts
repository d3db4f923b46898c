import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deferred } from '../../src/util/deferred.js';

/** One message that a client sent. */
export type Sent = Readonly<Record<string, unknown>>;

const GREETING = {
  QMP: { version: { qemu: { major: 10, minor: 0, micro: 2 } }, capabilities: ['oob'] },
};

/** A monitor that says exactly what a test tells it to. Capabilities are negotiated by itself. */
export class ScriptedMonitor implements AsyncDisposable {
  readonly path: string;
  /** What the client sent, without the negotiation. */
  readonly sent: Sent[] = [];
  readonly #directory: string;
  readonly #server: Server;
  #socket: Socket | undefined;
  #wake: () => void = () => undefined;

  private constructor(greeting: string | undefined) {
    this.#directory = mkdtempSync(join(tmpdir(), 'drover-qmp-'));
    this.path = join(this.#directory, 'q');
    this.#server = createServer((socket) => {
      this.#socket = socket;
      socket.on('error', () => undefined);
      let rest = '';
      socket.on('data', (chunk) => {
        const lines = (rest + chunk.toString()).split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines) this.#take(JSON.parse(line) as Sent);
      });
      if (greeting !== undefined) socket.write(greeting);
    });
  }

  /** Listens. The greeting may be replaced by any text, or left out. */
  static async start(
    greeting: string | null = `${JSON.stringify(GREETING)}\r\n`,
  ): Promise<ScriptedMonitor> {
    const monitor = new ScriptedMonitor(greeting ?? undefined);
    await new Promise<void>((resolve) => monitor.#server.listen(monitor.path, resolve));
    return monitor;
  }

  /** Waits until the client has sent so many messages. */
  async received(count: number): Promise<readonly Sent[]> {
    while (this.sent.length < count) {
      const more = deferred();
      this.#wake = () => more.resolve();
      await more.promise;
    }
    return this.sent;
  }

  /** Sends text as it is, or an object as one line. */
  say(message: string | object): void {
    this.#socket?.write(typeof message === 'string' ? message : `${JSON.stringify(message)}\r\n`);
  }

  event(event: string, data: object = {}, microseconds = 0): void {
    this.say({ timestamp: { seconds: 7, microseconds }, event, data });
  }

  hangUp(): void {
    this.#socket?.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.#socket?.destroy();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  #take(message: Sent): void {
    if (message['execute'] === 'qmp_capabilities') {
      this.say({ return: {}, id: message['id'] });
      return;
    }
    this.sent.push(message);
    this.#wake();
  }
}
