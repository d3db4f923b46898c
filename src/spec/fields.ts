import { z } from 'zod';
import { parseDuration, parseSize } from '../util/bytes.js';

/*
 * The kinds of field that specs and configurations are made of. Messages complete the sentence
 * "<field> ...", so that one line says what is wrong with which field.
 */

/** Text that must match; the message says what is allowed. */
export const text = (pattern: RegExp, allowed: string) =>
  z
    .string({ error: (issue) => (issue.input === undefined ? 'must be given' : 'must be text') })
    .regex(pattern, { error: (issue) => `${allowed}, not ${quote(issue.input)}` });

/** The same, where absent or empty means the fallback. */
export const optionalText = (pattern: RegExp, allowed: string, fallback = '') =>
  z
    .string({ error: 'must be text' })
    .default('')
    .refine((value) => value === '' || pattern.test(value), {
      error: (issue) => `${allowed}, not ${quote(issue.input)}`,
    })
    .transform((value) => value || fallback);

/** One of some words, where absent or empty means the fallback. */
export const choice = <const W extends string>(words: readonly W[], fallback: W) =>
  z
    .enum([...words, ''] as readonly (W | '')[] as readonly [W, ...W[]], {
      error: (issue) => notOneOf(words, issue.input),
    })
    .default(fallback)
    .transform((value) => value || fallback);

/** One of some words, which must be said. */
export const requiredChoice = <const W extends string>(words: readonly W[]) =>
  z.enum(words, { error: (issue) => notOneOf(words, issue.input) });

/** True or false; absent means the fallback. */
export const flag = (fallback: boolean) =>
  z.boolean({ error: 'must be true or false' }).default(fallback);

/** A whole number of a range, described in words; absent means 0. */
export const wholeNumber = (smallest: number, largest: number, allowed: string) =>
  z
    .number({ error: allowed })
    .int({ error: allowed })
    .min(smallest, { error: allowed })
    .max(largest, { error: allowed });

/** A size with its unit, as people write it in files; the output is bytes. */
export const size = () => withUnit(parseSize, 'must be a size such as 256MiB');

/** A duration with its unit, as people write it in files; the output is milliseconds. */
export const duration = () => withUnit(parseDuration, 'must be a duration such as 300ms or 5s');

const SHOWN_LIMIT = 60;

/** Shows a value in a message, shortened and without control characters. */
export function quote(value: unknown): string {
  // What is no plain value may be huge, or have no text at all.
  if (typeof value === 'object' && value !== null)
    return Array.isArray(value) ? 'a list' : 'a group';
  if (typeof value !== 'string') return String(value).slice(0, SHOWN_LIMIT);
  const shown = JSON.stringify(value.slice(0, SHOWN_LIMIT));
  return value.length > SHOWN_LIMIT || shown.length > SHOWN_LIMIT
    ? `${shown.slice(0, SHOWN_LIMIT - 3)}..."`
    : shown;
}

function withUnit(parse: (text: string) => number, allowed: string) {
  return z.union([z.string(), z.number()], { error: allowed }).transform((value, context) => {
    try {
      return parse(String(value));
    } catch {
      context.addIssue({ code: 'custom', message: `${allowed}, not ${quote(value)}` });
      return z.NEVER;
    }
  });
}

function notOneOf(words: readonly string[], input: unknown): string {
  const allowed = `must be ${words.slice(0, -1).join(', ')} or ${words.at(-1)}`;
  return input === undefined || input === '' ? allowed : `${allowed}, not ${quote(input)}`;
}
