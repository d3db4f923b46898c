import type { Exit, ProcessRecord } from './proc.js';

/** Whom a program runs as. It has no further groups. */
export interface ProcessUser {
  readonly uid: number;
  readonly gid: number;
}

/** What a program may take of the host, where its launcher can hold it to that. */
export interface ProcessLimits {
  /** Memory, the kernel's for it included. */
  readonly memoryBytes: number;
  /** Threads. */
  readonly tasks: number;
}

/** A program to start. */
export interface LaunchRequest {
  /** Says what runs, for unit names and logs: letters, digits, "-", "_" and "." only. */
  readonly name: string;
  /** Absolute path of the program. */
  readonly command: string;
  readonly argv: readonly string[];
  /** Absolute path of the file that gets what the program prints. Made if absent, else added to. */
  readonly logPath: string;
  /** Default: as whom this process runs. */
  readonly user?: ProcessUser;
  /** Default: none. */
  readonly limits?: ProcessLimits;
}

/** A process that was started here or found again. It lives on when the agent ends. */
export interface LaunchedProcess {
  readonly record: ProcessRecord;
  /** Resolves, never rejects, when the process is gone. */
  readonly exited: Promise<Exit>;
  /**
   * Sends a signal, after checking that the pid still belongs to this very process. False if it is
   * gone.
   */
  kill(signal: NodeJS.Signals): boolean;
  /**
   * Tells that the process probably ends now (its socket closed), so that `exited` resolves soon if
   * it does.
   */
  hurry(): void;
}

/** Starts processes that outlive the agent, and finds them again. */
export interface Launcher {
  /** Rejects with ProcessError if the program cannot be started. */
  launch(
    request: LaunchRequest,
    options?: { readonly signal?: AbortSignal },
  ): Promise<LaunchedProcess>;
  /** Finds a process of an earlier run of the agent; undefined if that very process is gone. */
  adopt(record: ProcessRecord): Promise<LaunchedProcess | undefined>;
}
