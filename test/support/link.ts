import { connect, createServer, type Server, type Socket } from 'node:net';
import type { AgentConfig } from '../../src/agent/config.js';

/** How the network between two agents behaves. */
export type LinkState = 'up' | 'refused' | 'silent';

/**
 * The network from one agent to another, in the hands of a test: it can cut what is connected,
 * refuse what comes, or swallow everything without a word.
 */
export class Link implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #state: LinkState = 'up';
  #target = 0;

  private constructor() {
    this.#server = createServer((near) => this.#join(near));
  }

  static async open(): Promise<Link> {
    const link = new Link();
    await new Promise<void>((resolve) => link.#server.listen(0, '127.0.0.1', resolve));
    return link;
  }

  /** A host's configuration in which the peer `name` is reached over this link. */
  leadTo(name: string, config: AgentConfig): AgentConfig {
    const peers = config.peers.map((peer) => {
      if (peer.name !== name) return peer;
      this.#target = Number(peer.address.split(':').at(-1));
      const address = this.#server.address();
      if (address === null || typeof address === 'string') throw new Error('The link is closed.');
      return { ...peer, address: `127.0.0.1:${address.port}` };
    });
    return { ...config, peers };
  }

  /** Ends all connections with a reset; new ones are taken as `state` says. */
  cut(state: LinkState = 'up'): void {
    this.#state = state;
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  /** From now on no byte gets through and nobody hears why. */
  silence(): void {
    this.#state = 'silent';
    for (const socket of this.#sockets) socket.pause();
  }

  /** All is well again; what was swallowed meanwhile arrives late. */
  heal(): void {
    this.#state = 'up';
    for (const socket of this.#sockets) socket.resume();
  }

  #join(near: Socket): void {
    if (this.#state === 'refused') {
      near.resetAndDestroy();
      return;
    }
    const far = connect(this.#target, '127.0.0.1');
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(one);
      one.on('data', (bytes) => void other.write(bytes));
      one.on('end', () => other.end());
      one.on('error', () => other.resetAndDestroy());
      one.on('close', () => {
        this.#sockets.delete(one);
        other.destroy();
      });
      if (this.#state === 'silent') one.pause();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut('refused');
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
  }
}
