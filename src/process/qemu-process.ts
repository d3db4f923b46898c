import { setTimeout as delay } from 'node:timers/promises';
import { type ConnectOptions, QmpClient, type Transcript } from '../qmp/client.js';
import { QmpClosedError } from '../qmp/errors.js';
import { untilAborted, withTimeout } from '../util/linked-signal.js';
import { describeExit, QemuIdentityError, QemuStartError } from './errors.js';
import { identityArguments } from './identity-arguments.js';
import type { LaunchedProcess, Launcher, ProcessLimits, ProcessUser } from './launcher.js';
import type { Exit, ProcessRecord } from './proc.js';
import { assertSocketPath, makePrivate, qemuPaths, readTail } from './qemu-directory.js';

/** A QEMU to start. */
export interface QemuProcessRequest {
  /** Absolute path of the QEMU binary. */
  readonly binary: string;
  readonly uuid: string;
  /** Shown by `ps` and in QEMU's log. */
  readonly name: string;
  /** Private folder for its sockets, pid file and log; made with mode 0700 if absent. */
  readonly directory: string;
  /** Everything beyond identity, monitors and defaults: machine, memory, devices. */
  readonly argv: readonly string[];
  /** As in LaunchRequest; the folder is this user's then. */
  readonly user?: ProcessUser;
  /** As in LaunchRequest. */
  readonly limits?: ProcessLimits;
}

/** What must be remembered to find a QEMU again after the agent's restart. Plain JSON. */
export interface QemuProcessRecord {
  readonly process: ProcessRecord;
  readonly uuid: string;
  readonly directory: string;
}

/** How to start or find a QEMU. */
export interface QemuProcessOptions {
  readonly signal?: AbortSignal;
  /** Milliseconds until its monitor must have answered. Default 30 000. */
  readonly limitMs?: number;
  readonly transcript?: Transcript;
}

const START_LIMIT_MS = 30_000;
const QUIT_LIMIT_MS = 10_000;
const CONNECT_PAUSE_MS = 10;
const RECONNECT_LIMIT_MS = 5_000;
const LONGEST_PAUSE_MS = 1_000;

/** One running QEMU with the agent's monitor connected. It lives on when this object is dropped. */
export class QemuProcess {
  readonly record: QemuProcessRecord;
  /**
   * A second monitor that the agent leaves free, for a watchdog or a person: a monitor serves one
   * client only.
   */
  readonly rescueMonitorPath: string;
  /** Resolves, never rejects, when the process is gone. */
  readonly exited: Promise<Exit>;
  readonly #process: LaunchedProcess;
  readonly #options: QemuProcessOptions;
  #qmp: QmpClient;
  #reconnecting: Promise<QmpClient>;
  /** True once the connection may end without anybody's missing it. */
  #ending = false;

  private constructor(
    process: LaunchedProcess,
    qmp: QmpClient,
    record: QemuProcessRecord,
    { transcript }: QemuProcessOptions,
  ) {
    this.#process = process;
    this.#options = transcript ? { transcript } : {};
    this.#qmp = qmp;
    this.record = record;
    this.exited = process.exited;
    this.rescueMonitorPath = qemuPaths(record.directory).rescueMonitor;
    this.#reconnecting = this.#watch(qmp);
    void this.exited.then(() => {
      this.#ending = true;
    });
  }

  /** The connection to its monitor, the newest one where an earlier one broke. */
  get qmp(): QmpClient {
    return this.#qmp;
  }

  /** True once its end, or only that of the connection to it, is wanted or has come. */
  get isEnding(): boolean {
    return this.#ending;
  }

  /**
   * Answers with a connection that works: where the last one broke though QEMU lives, it is made
   * again.
   *
   * @throws QmpClosedError when QEMU has gone, or does not answer within 5 s
   */
  async reconnected(): Promise<QmpClient> {
    if (this.#qmp.isOpen) return this.#qmp;
    const silent = () => new QmpClosedError('QEMU lives, and its monitor does not answer.');
    using limit = withTimeout(undefined, RECONNECT_LIMIT_MS, silent);
    return await untilAborted(this.#reconnecting, limit.signal);
  }

  /**
   * Starts QEMU and waits until its monitor answers. Rejects with QemuStartError if it ends or
   * stays silent, with SocketPathError if the folder's path is too long, or with the signal's
   * reason; the process is gone by then.
   */
  static async start(
    launcher: Launcher,
    request: QemuProcessRequest,
    options: QemuProcessOptions = {},
  ): Promise<QemuProcess> {
    const { directory, uuid, user, limits } = request;
    const paths = qemuPaths(directory);
    assertSocketPath(paths.agentMonitor);
    assertSocketPath(paths.rescueMonitor);
    await makePrivate(directory, user);
    const launched = await launcher.launch(
      {
        name: `qemu-${uuid}`,
        command: request.binary,
        argv: [...identityArguments(request), ...request.argv],
        logPath: paths.log,
        ...(user ? { user } : {}),
        ...(limits ? { limits } : {}),
      },
      options.signal ? { signal: options.signal } : {},
    );
    try {
      const qmp = await connectWhenReady(launched, request, options);
      return new QemuProcess(launched, qmp, { process: launched.record, uuid, directory }, options);
    } catch (error) {
      launched.kill('SIGKILL');
      launched.hurry();
      await launched.exited;
      throw error;
    }
  }

  /**
   * Finds a QEMU again after the agent's restart; undefined if it is gone. Rejects with
   * QemuIdentityError if another domain answers on its socket, or with a QMP error if its monitor
   * does not answer.
   */
  static async attach(
    launcher: Launcher,
    record: QemuProcessRecord,
    options: QemuProcessOptions = {},
  ): Promise<QemuProcess | undefined> {
    const launched = await launcher.adopt(record.process);
    if (!launched) return undefined;
    const path = qemuPaths(record.directory).agentMonitor;
    const qmp = await connectTo(path, record.uuid, options);
    return new QemuProcess(launched, qmp, record, options);
  }

  /**
   * Asks QEMU to end and waits until it has; kills it if it does not within `limitMs` (default 10
   * 000).
   */
  async quit(options: { readonly limitMs?: number } = {}): Promise<Exit> {
    const limitMs = options.limitMs ?? QUIT_LIMIT_MS;
    using limit = withTimeout(undefined, limitMs, () => new Error('QEMU did not end in time.'));
    this.#ending = true;
    try {
      // The connection may close before the answer arrives: what counts is that the process goes.
      this.qmp.execute('quit', {}, { limitMs }).catch(() => undefined);
      const exit = await untilAborted(this.exited, limit.signal);
      // What QEMU said last is still to be read.
      await untilAborted(this.qmp.closed, limit.signal);
      return exit;
    } catch {
      return await this.kill();
    } finally {
      await this.qmp.close();
    }
  }

  /** Kills QEMU at once and waits until it is gone. */
  async kill(): Promise<Exit> {
    this.#ending = true;
    this.#process.kill('SIGKILL');
    this.#process.hurry();
    const exit = await this.exited;
    await this.qmp.close();
    return exit;
  }

  /** Lets go of the monitor and leaves QEMU running, as at the agent's end. */
  async detach(): Promise<void> {
    this.#ending = true;
    await this.qmp.close();
  }

  /** Returns the last 4 KiB of what QEMU printed. */
  async logTail(): Promise<string> {
    return readTail(qemuPaths(this.record.directory).log);
  }

  /** Makes the connection again when it breaks, because a guest may hang on what is asked next. */
  #watch(qmp: QmpClient): Promise<QmpClient> {
    const again = qmp.closed.then(async (error) => {
      this.#process.hurry();
      const next = await this.#reconnect(error);
      this.#qmp = next;
      this.#reconnecting = this.#watch(next);
      return next;
    });
    again.catch(() => undefined);
    return again;
  }

  async #reconnect(closed: QmpClosedError): Promise<QmpClient> {
    const { record } = this;
    const path = qemuPaths(record.directory).agentMonitor;
    const options = { ...this.#options, limitMs: RECONNECT_LIMIT_MS };
    const gone = this.exited.then(() => true);
    for (let pauseMs = CONNECT_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
      // A QEMU that ends closes its monitor first.
      const pause = delay(pauseMs, false, { ref: false });
      if ((await Promise.race([gone, pause])) || this.#ending) throw closed;
      const qmp = await connectTo(path, record.uuid, options).catch(() => undefined);
      if (qmp && !this.#ending) return qmp;
      await qmp?.close();
    }
  }
}

/** Connects to a monitor behind which the domain `uuid` must be. */
async function connectTo(
  path: string,
  uuid: string,
  options: QemuProcessOptions,
): Promise<QmpClient> {
  const qmp = await QmpClient.connect(path, connectOptions(options));
  try {
    const { UUID: found } = await qmp.execute('query-uuid');
    if (found === uuid) return qmp;
    throw new QemuIdentityError(`The QEMU on ${path} runs the domain ${found}, not ${uuid}.`);
  } catch (error) {
    await qmp.close();
    throw error;
  }
}

async function connectWhenReady(
  launched: LaunchedProcess,
  request: QemuProcessRequest,
  options: QemuProcessOptions,
): Promise<QmpClient> {
  const { agentMonitor, log } = qemuPaths(request.directory);
  const limitMs = options.limitMs ?? START_LIMIT_MS;
  const fail = async (what: string, exit?: Exit) => {
    const output = await readTail(log);
    const lastLine = output.trim().split('\n').at(-1) ?? '';
    return new QemuStartError(
      `QEMU for ${request.name} ${what}: ${lastLine || 'it printed nothing'}`,
      {
        program: request.binary,
        output,
        ...(exit ? { exit } : {}),
      },
    );
  };
  let gone: Exit | undefined;
  void launched.exited.then((exit) => {
    gone = exit;
  });
  const late = new Error('late');
  using limit = withTimeout(options.signal, limitMs, () => late);
  for (;;) {
    try {
      return await QmpClient.connect(
        agentMonitor,
        connectOptions({ ...options, signal: limit.signal }),
      );
    } catch (error) {
      if (error === late) throw await fail(`did not answer within ${limitMs} ms`);
      if (!(error instanceof QmpClosedError)) throw error;
    }
    if (gone) throw await fail(`${describeExit(gone)} before its monitor answered`, gone);
    launched.hurry();
    // The socket appears when QEMU has parsed its options; nothing tells when, so it is tried
    // again.
    await delay(CONNECT_PAUSE_MS, undefined, { signal: limit.signal }).catch(() => undefined);
  }
}

function connectOptions(options: QemuProcessOptions): ConnectOptions {
  return {
    connectLimitMs: options.limitMs ?? START_LIMIT_MS,
    ...(options.signal ? { signal: options.signal } : {}),
    ...(options.transcript ? { transcript: options.transcript } : {}),
  };
}
