import { MigrationError } from '../migration/errors.js';

/** A peer as the configuration names it. */
export interface PeerAddress {
  /** The name of its host, as in its certificate. */
  readonly name: string;
  /** `host:port`. */
  readonly address: string;
}

/** A peer, and whether it answered just now. */
export interface PeerFacts extends PeerAddress {
  readonly reachable: boolean;
  /** Empty when it is not reachable. */
  readonly agentVersion: string;
  /** Why it is not reachable; empty when it is. */
  readonly problem: string;
  readonly roundTripMs: number;
}

/** The peers that the configuration lists. It never changes while the agent runs. */
export class Peers {
  readonly #ownHost: string;
  readonly #peers: ReadonlyMap<string, PeerAddress>;

  constructor(ownHost: string, peers: readonly PeerAddress[]) {
    this.#ownHost = ownHost;
    this.#peers = new Map(peers.map((peer) => [peer.name, peer]));
  }

  /** All of them, by name. */
  list(): readonly PeerAddress[] {
    return [...this.#peers.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /**
   * @throws MigrationError `SAME_HOST` for this host itself, `PEER_NOT_FOUND` for one not listed
   */
  find(host: string): PeerAddress {
    if (host === this.#ownHost) {
      throw new MigrationError('SAME_HOST', `${host} is the host of this agent itself.`);
    }
    const peer = this.#peers.get(host);
    if (peer) return peer;
    const known = [...this.#peers.keys()].sort().join(', ') || 'none';
    throw new MigrationError(
      'PEER_NOT_FOUND',
      `${this.#ownHost} has no peer "${host}". Its peers: ${known}.`,
    );
  }
}
