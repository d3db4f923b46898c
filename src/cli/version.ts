import { droverVersion } from '../util/version.js';
import type { AddCommand } from './command.js';

/** `drover version`. */
export const addVersion: AddCommand = (program, run) => {
  const command = program
    .command('version')
    .summary('Print the version')
    .description('Print the version of this program.');
  command.action(() =>
    run(command, async (session) => {
      const version = droverVersion();
      session.print({ version }, () => [`drover ${version}`]);
      return undefined;
    }),
  );
};
