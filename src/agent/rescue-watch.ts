import type { Sighting } from '../process/lock-watch.js';

/** How often the agent is looked at while all is well, in milliseconds. */
const LOOK_MS = 200;

/** The same while something is wrong: a crash-looping agent is away for moments only. */
const URGENT_LOOK_MS = 100;

/** After so many milliseconds without an agent, none is expected to come back at any moment. */
const LONG_MS = 60_000;

/** How long an agent may be away or stopped, in milliseconds. */
const PATIENCE_MS = 2_000;

/** How long a new agent must have been there to be trusted, in milliseconds. */
const SETTLED_MS = 10_000;

/**
 * What is to be thought of the agent. `well`: leave everything to it; `waiting`: it is away or
 * stopped, and may come back; `gone`, `stopped`: it has been so for too long.
 */
export type Verdict = 'well' | 'waiting' | 'gone' | 'stopped';

/**
 * Judges an agent by what is seen of it. Only time in which somebody looked counts, so that a
 * rescue process that was stopped itself does not take its own absence for the agent's. An agent
 * that comes back and ends again, over and over, is no better than one that stays away: its absence
 * begins when it was last there for long.
 */
export class AgentWatch {
  #lastMs: number | undefined;
  #lastState: Sighting['state'] | undefined;
  #holder = '';
  #hereMs = 0;
  #stoppedMs = 0;
  #troubleMs = 0;
  #awayMs = 0;

  /** @param nowMs Of a clock that never goes back. */
  see({ state, holder }: Sighting, nowMs: number): Verdict {
    // An absence begins with the look that finds it; those of a crash-looping agent are one.
    const changes = state !== this.#lastState && state !== 'here';
    const begins = changes && (this.#troubleMs === 0 || state === 'stopped');
    const lastMs = begins ? nowMs : (this.#lastMs ?? nowMs);
    const passedMs = Math.min(nowMs - lastMs, 2 * LOOK_MS);
    const first = this.#lastMs === undefined;
    this.#lastMs = nowMs;
    this.#lastState = state;
    this.#awayMs = state === 'gone' ? this.#awayMs + passedMs : 0;
    if (state === 'here') {
      this.#stoppedMs = 0;
      const name = `${holder?.pid} ${holder?.startTime}`;
      this.#hereMs = name === this.#holder ? this.#hereMs + passedMs : 0;
      this.#holder = name;
      // The one that is there at first has started this process, or has proven itself otherwise.
      if (first) this.#hereMs = SETTLED_MS;
      this.#troubleMs = this.#hereMs >= SETTLED_MS ? 0 : this.#troubleMs + passedMs;
      return 'well';
    }
    this.#troubleMs += passedMs;
    if (state === 'stopped') {
      this.#stoppedMs += passedMs;
      return this.#stoppedMs >= PATIENCE_MS ? 'stopped' : 'waiting';
    }
    this.#stoppedMs = 0;
    return this.#troubleMs >= PATIENCE_MS ? 'gone' : 'waiting';
  }

  /** How long to wait until the next look, in milliseconds. */
  get pauseMs(): number {
    return this.#troubleMs > 0 && this.#awayMs < LONG_MS ? URGENT_LOOK_MS : LOOK_MS;
  }
}
