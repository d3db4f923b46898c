import { createHash } from 'node:crypto';
import { unlinkSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import type { MigrationInfo, MigrationStatus } from '../../../src/qmp/types.gen.js';
import { FakeQmpError } from './errors.js';
import { FrameSocket } from './frames.js';
import type { DeviceState, MigrationMachine, Place, RamKeys } from './migration-machine.js';
import { proofOf } from './nbd-client.js';

/** The destination half of a fake migration. */
export class Incoming {
  status: MigrationStatus = 'setup';
  error: string | undefined;
  readonly #machine: MigrationMachine;
  readonly #place: Place;
  readonly #keys: RamKeys;
  readonly #exitOnError: boolean;
  /** `-S` was not given, or `cont` came too early: the guest starts by itself when it is loaded. */
  readonly #startsByItself: () => boolean;
  readonly #server: Server;
  #frames: FrameSocket | undefined;

  constructor(
    machine: MigrationMachine,
    place: Place,
    keys: RamKeys,
    options: { readonly exitOnError: boolean; readonly startsByItself: () => boolean },
  ) {
    this.#machine = machine;
    this.#place = place;
    this.#keys = keys;
    this.#exitOnError = options.exitOnError;
    this.#startsByItself = options.startsByItself;
    this.#server = createServer((socket) => {
      this.#server.close();
      this.#begin(socket);
    });
  }

  /** Listens on its socket, unless it has been handed one. Throws FakeQmpError if it cannot. */
  async start(): Promise<void> {
    if ('socket' in this.#place) {
      await this.#enter('setup');
      this.#begin(this.#place.socket);
      return;
    }
    const { path } = this.#place;
    const failure = await new Promise<Error | undefined>((resolve) => {
      this.#server.once('error', resolve);
      this.#server.listen(path, () => resolve(undefined));
    });
    if (failure) throw new FakeQmpError(`Failed to bind socket to ${path}: ${failure.message}`);
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
    const path = 'path' in this.#place ? this.#place.path : undefined;
    return {
      status: this.status,
      ...(this.error === undefined ? {} : { 'error-desc': this.error }),
      ...(listening && path !== undefined ? { 'socket-address': [{ type: 'unix', path }] } : {}),
    };
  }

  #begin(socket: Socket): void {
    this.#frames = new FrameSocket(socket);
    void this.#load(this.#frames);
  }

  /** What stands in for the handshake of TLS. QEMU says nothing of one that fails, and stays. */
  async #letIn(frames: FrameSocket): Promise<boolean> {
    if (!this.#keys.server) return true;
    const hello = await frames.receive();
    const key = this.#keys.server.get(String(hello?.header['identity']));
    if (key !== undefined && hello?.header['proof'] === proofOf(key)) return true;
    frames.socket.destroy();
    return false;
  }

  async #load(frames: FrameSocket): Promise<void> {
    if (!(await this.#letIn(frames))) return;
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
