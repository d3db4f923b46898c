import type { Command } from 'commander';
import type { Session } from './session.js';

/** Runs what a command does; an exit code other than 0 is returned. */
export type Runner = (
  command: Command,
  work: (session: Session) => Promise<number | undefined>,
) => Promise<void>;

/** Adds one command to the program. */
export type AddCommand = (program: Command, run: Runner) => void;
