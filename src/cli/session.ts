import type { AgentClient } from '../rpc/client.js';
import { ReasonedError } from '../util/reasoned-error.js';
import { toJson } from './json.js';
import { printable, type Report, renderReport } from './report.js';
import { type Style, styleOf, type TextStream } from './style.js';

/** What the CLI needs of the process it runs in; tests bring their own. */
export interface CliEnvironment {
  readonly stdout: TextStream;
  readonly stderr: TextStream;
  /** Read where a file is named `-`. */
  readonly stdin: AsyncIterable<Uint8Array | string>;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly homeDirectory: string;
  /** Runs the agent until it is told to end. */
  readonly runAgent: (settings: AgentSettings) => Promise<void>;
  /** Aborts on Ctrl-C or SIGTERM, with the name of the signal as reason, from the first call on. */
  readonly interruption: () => AbortSignal;
  /** How long to wait for a migration in doubt to be settled, in milliseconds. */
  readonly doubtPatienceMs: number;
}

/** What `drover agent` tells the agent. */
interface AgentSettings {
  readonly configFile: string;
  /** Told when the agent listens. */
  readonly onReady: (ready: AgentReady) => void;
}

/** Where an agent listens. */
interface AgentReady {
  readonly host: string;
  readonly address: string;
  readonly unix: string;
}

/** The options that every command has. */
export interface GlobalOptions {
  readonly agent?: string;
  readonly certificate?: string;
  readonly key?: string;
  readonly ca?: string;
  readonly json?: boolean;
}

/** What a line of output may depend on. */
export interface Page {
  /** Columns; unlimited where the output is no terminal. */
  readonly width: number;
  readonly style: Style;
}

/** One run of one command. */
export class Session {
  readonly json: boolean;
  readonly environment: CliEnvironment;
  readonly #options: GlobalOptions;

  constructor(environment: CliEnvironment, options: GlobalOptions) {
    this.environment = environment;
    this.#options = options;
    this.json = options.json === true;
  }

  /** Prints a result: the message as one line of JSON, or lines for people. */
  print(message: object, lines: (page: Page) => readonly string[]): void {
    const { stdout, env } = this.environment;
    if (this.json) {
      stdout.write(`${JSON.stringify(toJson(message))}\n`);
      return;
    }
    const width = stdout.isTTY ? stdout.columns || 80 : Number.POSITIVE_INFINITY;
    const style = styleOf(stdout, env);
    // What an agent says is another host's word.
    const text = lines({ width, style }).flatMap((line) => line.split('\n'));
    if (text.length > 0) stdout.write(`${text.map((l) => printable(l, style)).join('\n')}\n`);
  }

  /** Tells people something beside the result. */
  note(text: string): void {
    if (!this.json) this.environment.stderr.write(`${text}\n`);
  }

  /** Tells an error on stderr. */
  tell(report: Report): void {
    tellReport(report, this.environment, this.json);
  }

  /** Does something with the agent that the options name, and ends the connection. */
  async withAgent<T>(work: (agent: AgentClient) => Promise<T>): Promise<T> {
    const { connect } = await import('./connect.js');
    using agent = connect(this.#options, this.environment);
    return await work(agent);
  }
}

/** Tells an error on stderr, as JSON or for people. */
export function tellReport(report: Report, environment: CliEnvironment, json: boolean): void {
  const { stderr, env } = environment;
  const lines = json
    ? [JSON.stringify({ error: report })]
    : renderReport(report, styleOf(stderr, env));
  stderr.write(`${lines.join('\n')}\n`);
}

/** A field that every answer has; its lack is a fault of the agent. */
export function present<T>(value: T | undefined, what: string): T {
  if (value !== undefined) return value;
  throw new ReasonedError('INTERNAL', `The agent's answer has no ${what}.`);
}
