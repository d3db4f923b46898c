import { readFileSync, writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { buildProgram } from '../src/cli/program.js';

const DOC = new URL('../docs/cli.md', import.meta.url);
const MARKER =
  '<!-- What follows is written by `npm run generate:cli` from the help of each command. -->\n';

/** The text of docs/cli.md: what people wrote of it, then the help of every command. */
export function renderCliDoc(): string {
  const [written = ''] = readFileSync(DOC, 'utf8').split(MARKER);
  const nothing = { write: () => {} };
  const program = buildProgram(
    {
      stdout: nothing,
      stderr: nothing,
      stdin: process.stdin,
      env: {},
      homeDirectory: '/',
      runAgent: async () => {},
      interruption: () => new AbortController().signal,
      doubtPatienceMs: 0,
    },
    async () => {},
  );
  // A command that only groups others is told by those.
  const commands = program.commands.flatMap((command) =>
    command.commands.length > 0 ? [...command.commands] : [command],
  );
  const parts = [program, ...commands].map(
    (command) => `### ${titleOf(command)}\n\n\`\`\`\n${helpOf(command)}\n\`\`\`\n`,
  );
  return `${written}${MARKER}\n${parts.join('\n')}`;
}

function titleOf(command: Command): string {
  return command.parent ? `${titleOf(command.parent)} ${command.name()}` : command.name();
}

/**
 * The whole help, with the texts that commander keeps apart; the options of all commands stand
 * once.
 */
function helpOf(command: Command): string {
  let text = '';
  command.configureOutput({ writeOut: (part) => (text += part) });
  if (command.parent) command.configureHelp({ showGlobalOptions: false });
  command.outputHelp();
  return text.trim();
}

if (process.argv[1]?.endsWith('write-cli-doc.ts')) writeFileSync(DOC, renderCliDoc());
