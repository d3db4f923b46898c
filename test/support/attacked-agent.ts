import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { expect } from 'vitest';
import type { CertificateFiles } from './certificates.js';
import { FakeFleet } from './fake-fleet.js';
import { memoryMib, whileAnswering } from './hostile.js';
import { FRAMES, frame, PREFACE, tlsTo } from './raw-http2.js';

/** What the agent may have grown by, in MiB; the attacker's own buffers are in it. */
const GROWTH_MIB = 200;

/** A whole agent with a guest to lose, and certificates with which it can be attacked. */
export class AttackedAgent implements AsyncDisposable {
  readonly hosts: FakeFleet;
  readonly address: string;
  readonly operator: CertificateFiles;
  readonly host: CertificateFiles;

  private constructor(hosts: FakeFleet, operator: CertificateFiles, host: CertificateFiles) {
    this.hosts = hosts;
    this.address = hosts.host('alpha').config.listen.address;
    this.operator = operator;
    this.host = host;
  }

  static async start(): Promise<AttackedAgent> {
    const hosts = await FakeFleet.start(['alpha']);
    await hosts.run('alpha', 'web');
    const { certificates } = hosts.fleet;
    const operator = await certificates.operator('mallory');
    return new AttackedAgent(hosts, operator, await certificates.host('mallory'));
  }

  /** Attacks, and looks whether all is well meanwhile and after. */
  async survive<T>(attack: () => Promise<T>): Promise<T> {
    const before = memoryMib();
    const { client } = this.hosts.host('alpha');
    const result = await whileAnswering(client, attack);
    await whileAnswering(client, async () => undefined);
    expect(memoryMib() - before, 'MiB more than before').toBeLessThan(GROWTH_MIB);
    const [guest] = this.hosts.launcher('alpha').alive;
    if (!guest) throw new Error('The guest has gone.');
    await this.hosts.writes(guest, 1);
    return result;
  }

  /** A connection that has said hello. */
  async greeted(files = this.operator): Promise<TLSSocket> {
    const socket = await tlsTo(this.address, files);
    socket.resume();
    socket.write(Buffer.concat([PREFACE, frame(FRAMES.settings, 0, 0)]));
    return socket;
  }

  async session(files = this.operator): Promise<ClientHttp2Session> {
    const socket = await tlsTo(this.address, files);
    const opened = connectHttp2('https://drover', { createConnection: () => socket });
    opened.on('error', () => undefined);
    return opened;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.hosts[Symbol.asyncDispose]();
  }
}
