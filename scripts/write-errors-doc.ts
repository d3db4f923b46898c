import { writeFileSync } from 'node:fs';
import { REASONS, type ReasonRule } from '../src/util/reasons.js';

/** The text of docs/errors.md: one row for each reason, by name. */
export function renderErrorsDoc(): string {
  const rows = Object.entries(REASONS as Record<string, ReasonRule>)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(
      ([reason, { status, retryable, summary, hint }]) =>
        `| \`${reason}\` | ${status} | ${retryable ? 'yes' : 'no'} | ${summary} | ${hint} |`,
    );
  return `${HEAD}\n${rows.join('\n')}\n`;
}

const HEAD = `# Reasons

Every refusal and every failure carries one of these reasons: in the \`google.rpc.ErrorInfo\` of
a failed call (domain \`drover\`), in the \`failure\` of a migration, and in brackets behind an
error of the CLI. Reasons are permanent; new ones may be added. Messages are for people and may
change.

The metadata of an ErrorInfo holds the facts by name (for example \`required_bytes\`), \`side\`
where one side of a migration is meant, and \`hint\`. When several things are wrong with a
request, all of them are in \`google.rpc.PreconditionFailure\`. *Again* says whether the same
request may succeed later without a change; then the status has \`google.rpc.RetryInfo\` too.

Written by \`npm run generate:errors\` from \`src/util/reasons.ts\`.

| reason | gRPC status | again | what it means | what to do |
| --- | --- | --- | --- | --- |`;

if (process.argv[1]?.endsWith('write-errors-doc.ts')) {
  writeFileSync(new URL('../docs/errors.md', import.meta.url), renderErrorsDoc());
}
