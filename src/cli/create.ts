import { readFile } from 'node:fs/promises';
import type { DeepPartial, DomainSpec } from '../gen/drover/v1/domain.js';
import { ReasonedError } from '../util/reasoned-error.js';
import type { AddCommand } from './command.js';
import { present, type Session } from './session.js';

/** `drover create`. */
export const addCreate: AddCommand = (program, run) => {
  const command = program
    .command('create')
    .summary('Create a domain from its spec')
    .description('Create a domain from its spec, with its images. It is not started.')
    .argument('<file>', 'the spec, YAML; - reads it from stdin')
    .addHelpText(
      'after',
      '\nExamples:\n  $ drover create web1.yaml\n  $ generate-spec | drover create -',
    );
  command.action((file: string) =>
    run(command, async (session) => {
      const text = file === '-' ? await readStdin(session) : await readSpec(file);
      const { parseDomainFile } = await import('../spec/domain-file.js');
      // What the file leaves out is not there, rather than there and undefined.
      const spec = parseDomainFile(text, file === '-' ? 'stdin' : file) as DeepPartial<DomainSpec>;
      const answer = await session.withAgent((agent) => agent.domains.createDomain({ spec }));
      session.print(answer, () => {
        const domain = present(answer.domain, 'domain');
        return [`${domain.spec?.name ?? ''} is created, with UUID ${domain.spec?.uuid ?? ''}.`];
      });
      return undefined;
    }),
  );
};

async function readSpec(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const what = code === 'ENOENT' ? 'is not there' : `cannot be read (${code})`;
    throw new ReasonedError('SPEC_INVALID', `The spec ${file} ${what}.`, {
      cause,
      hint: 'Check the path.',
    });
  }
}

async function readStdin({ environment }: Session): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of environment.stdin) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks).toString('utf8');
}
