import { createHash } from 'node:crypto';
import { unlinkSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import type { MigrationInfo, MigrationStatus } from '../../../src/qmp/types.gen.js';
import { FakeQmpError } from './errors.js';
import { FrameSocket } from './frames.js';
import type { DeviceState, MigrationMachine } from './migration-machine.js';

/** The destination half of a fake migration. */
export class Incoming {
  status: MigrationStatus = 'setup';
  error: string | undefined;
  readonly #machine: MigrationMachine;
  readonly #path: string;
  readonly #exitOnError: boolean;
  /** `-S` was not given, or `cont` came too early: the guest starts by itself when it is loaded. */
  readonly #startsByItself: () => boolean;
  readonly #server: Server;
  #frames: FrameSocket | undefined;

  constructor(
    machine: MigrationMachine,
    path: string,
    options: { readonly exitOnError: boolean; readonly startsByItself: () => boolean },
  ) {
    this.#machine = machine;
    this.#path = path;
    this.#exitOnError = options.exitOnError;
    this.#startsByItself = options.startsByItself;
    this.#server = createServer((socket) => {
      this.#server.close();
      this.#frames = new FrameSocket(socket);
      void this.#load(this.#frames);
    });
  }

  /** Listens on its socket. Throws FakeQmpError if it cannot. */
  async start(): Promise<void> {
    const failure = await new Promise<Error | undefined>((resolve) => {
      this.#server.once('error', resolve);
      this.#server.listen(this.#path, () => resolve(undefined));
    });
    if (failure)
      throw new FakeQmpError(`Failed to bind socket to ${this.#path}: ${failure.message}`);
    await this.#enter('setup');
  }

  yank(): void {
    this.#frames?.socket.destroy();
  }

  close(): void {
    this.#server.close();
    this.yank();
  }

  describe(): MigrationInfo {
    const listening = this.status === 'setup' || this.status === 'active';
    return {
      status: this.status,
      ...(this.error === undefined ? {} : { 'error-desc': this.error }),
      ...(listening ? { 'socket-address': [{ type: 'unix', path: this.#path }] } : {}),
    };
  }

  async #load(frames: FrameSocket): Promise<void> {
    await this.#enter('active');
    const ram = createHash('sha256');
    for (let frame = await frames.receive(); frame; frame = await frames.receive()) {
      const { uuid } = frame.header;
      if (frame.header['ram'] === true) ram.update(frame.payload);
      else if (uuid !== undefined) {
        if (this.#machine.capability('validate-uuid') && uuid !== this.#machine.uuid) {
          return this.#fail('load of migration failed: Invalid argument');
        }
      } else return this.#finish(frames, frame.header['devices'] as DeviceState, ram.digest('hex'));
    }
    await this.#fail('load of migration failed: Input/output error');
  }

  async #finish(frames: FrameSocket, state: DeviceState, ramSha256: string): Promise<void> {
    if (state.ramSha256 !== ramSha256)
      return this.#fail('load of migration failed: Invalid argument');
    this.#machine.loadGuest(state.guest);
    if (this.#startsByItself() && state.runState === 'running') await this.#machine.startGuest();
    else this.#machine.setRunState(state.runState === 'running' ? 'paused' : state.runState);
    await this.#enter('completed');
    await frames.send({ loaded: true });
    frames.socket.end();
  }

  async #fail(error: string): Promise<void> {
    this.error = error;
    this.#frames?.socket.destroy();
    await this.#enter('failed');
    if (this.#exitOnError) this.#machine.exit(1);
  }

  async #enter(status: MigrationStatus): Promise<void> {
    this.status = status;
    if (this.#machine.capability('events')) await this.#machine.emit('MIGRATION', { status });
  }
}

/** Removes a socket file that a killed fake left behind. */
export function removeSocket(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // It was removed already.
  }
}
