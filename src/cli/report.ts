import type { Failure } from '../gen/drover/v1/failure.js';
import { formatSize } from '../util/bytes.js';
import { ReasonedError, type Violation } from '../util/reasoned-error.js';
import { REASONS, type ReasonRule } from '../util/reasons.js';
import { shortName } from './figures.js';
import { paint, type Style } from './style.js';

/** An error as the CLI tells it: the fields of the wire's `Failure`, and all violations. */
export interface Report {
  readonly reason: string;
  readonly message: string;
  /** `SIDE_SOURCE`, `SIDE_DESTINATION` or `SIDE_UNSPECIFIED`. */
  readonly side: string;
  readonly phase: string;
  readonly hint: string;
  readonly retryable: boolean;
  readonly metadata: Readonly<Record<string, string>>;
  readonly violations: readonly Violation[];
}

/** Turns anything thrown into a report. What has no reason is a fault in Drover. */
export function reportOf(error: unknown): Report {
  const reasoned =
    error instanceof ReasonedError
      ? error
      : new ReasonedError('INTERNAL', error instanceof Error ? error.message : String(error));
  // An agent of a later version may give a reason that this one does not know.
  const rule: ReasonRule | undefined = REASONS[reasoned.reason];
  return {
    reason: reasoned.reason,
    message: reasoned.message,
    side: reasoned.side ? `SIDE_${reasoned.side.toUpperCase()}` : 'SIDE_UNSPECIFIED',
    phase: '',
    hint: reasoned.hint ?? rule?.hint ?? '',
    retryable: rule?.retryable ?? false,
    metadata: Object.fromEntries(Object.entries(reasoned.facts).map(([k, v]) => [k, String(v)])),
    violations: reasoned.violations,
  };
}

/** Turns the failure of a migration into a report. */
export function reportOfFailure(failure: Failure): Report {
  const { reason, message, side, phase, hint, retryable, metadata } = failure;
  return { reason, message, side, phase, hint, retryable, metadata, violations: [] };
}

/** Tells people: what was wrong, which side, what to do, and the code to look up. */
export function renderReport(report: Report, style: Style): string[] {
  const [mark, code] = [paint(style, 'red', 'error:'), paint(style, 'dim', `[${report.reason}]`)];
  const lines = [`${mark} ${headline(report)} ${code}`];
  for (const { subject, message } of listed(report)) {
    lines.push(`  - ${message.includes(subject) ? '' : `${subject}: `}${message}`);
  }
  const side = report.side === 'SIDE_UNSPECIFIED' ? '' : `on the ${shortName(report.side)}`;
  const phase = report.phase ? `in the ${report.phase} phase` : '';
  const where = [side, phase].filter(Boolean).join(', ');
  if (where) lines.push(`  where: ${where}`);
  for (const [name, value] of facts(report)) lines.push(`  ${name}: ${value}`);
  if (report.hint) lines.push(`  what to do: ${report.hint}`);
  return lines.map((line) => printable(line, style));
}

/** The facts that the message does not tell, in words. */
function facts({ message, metadata }: Report): [string, string][] {
  return Object.entries(metadata)
    .map(([name, value]): [string, string] =>
      name.endsWith('_bytes')
        ? [name.slice(0, -'_bytes'.length), formatSize(Number(value))]
        : [name, value],
    )
    .filter(([, value]) => value && !message.includes(value))
    .map(([name, value]) => [name.replaceAll('_', ' '), value]);
}

/**
 * The message; where it only strings the violations together, without them, because they are
 * listed.
 */
function headline({ message, violations }: Report): string {
  const strung = violations.map((violation) => violation.message).join('; ');
  if (violations.length < 2 || !message.endsWith(`: ${strung}.`)) return message;
  return message.slice(0, -strung.length - 3).concat(':');
}

/** The violations that the headline does not tell. */
function listed(report: Report): readonly Violation[] {
  const told = headline(report);
  return report.violations.filter(({ message }) => !told.includes(message));
}

/**
 * Messages may quote what a guest or another program wrote: nothing but our own colours may reach
 * the terminal as a control character.
 */
/** A line without anything that a terminal would obey, colours aside. */
export function printable(line: string, style: Style): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are looked for.
  const others = style.colors ? /(?!\x1b\[\d+m)[\x00-\x1f\x7f-\x9f]/g : /[\x00-\x1f\x7f-\x9f]/g;
  return line.replaceAll(others, ' ');
}
