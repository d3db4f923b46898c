import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type ParsedNode,
  parseDocument,
} from 'yaml';
import type { z } from 'zod';
import { ReasonedError, type Violation } from '../util/reasoned-error.js';
import type { Reason } from '../util/reasons.js';
import { quote } from './fields.js';
import { nearest } from './nearest.js';

/** Far more than any file of ours, and little enough to be read at once. */
const TEXT_LIMIT = 1024 ** 2;
/** Nobody reads more than so many at once. */
const VIOLATIONS_LIMIT = 50;
/** No file of ours has groups as deep. */
const DEPTH_LIMIT = 20;

/** The way to a value in a file, with keys in camelCase. */
export type YamlPath = readonly PropertyKey[];

/** A YAML file as plain data, with the lines that its values came from. */
export interface YamlFile {
  /** Keys are in camelCase. */
  readonly data: unknown;
  /** The line of a value, or of the nearest group around it. From 1. */
  lineOf(path: YamlPath): number;
  /** What is wrong before any schema is looked at. */
  readonly violations: readonly FileViolation[];
}

/** Something wrong in a file. */
export interface FileViolation extends Violation {
  readonly line: number;
}

/**
 * Reads a YAML file against a schema whose keys are in camelCase; in the file they are in
 * snake_case. Unknown keys are refused with the nearest known one.
 *
 * @throws ReasonedError of the given reason, with all violations
 */
export function parseStrict<S extends z.ZodType>(
  text: string,
  fileName: string,
  schema: S,
  options: { readonly reason: Reason },
): z.output<S> {
  const file = readYaml(text, options.reason);
  const result = checkYaml(file, schema, options.reason);
  if (result.success) return result.data;
  throw fileError(fileName, options.reason, result.violations);
}

/** Checks what was read; never throws. */
export function checkYaml<S extends z.ZodType>(
  file: YamlFile,
  schema: S,
  reason: Reason,
):
  | { readonly success: true; readonly data: z.output<S> }
  | { readonly success: false; readonly violations: readonly FileViolation[] } {
  // A text that is no YAML at all says nothing about single fields.
  const result =
    file.data === undefined ? undefined : schema.safeParse(file.data, { error: words });
  if (result?.success && file.violations.length === 0) return { success: true, data: result.data };
  const issues = result?.error?.issues ?? [];
  const found = issues.flatMap((issue) => toViolations(issue, file, schema, reason));
  return { success: false, violations: [...file.violations, ...found].sort(byLine) };
}

/** The error that tells everything that is wrong in a file. */
export function fileError(
  fileName: string,
  reason: Reason,
  violations: readonly FileViolation[],
): ReasonedError {
  const told = violations.slice(0, VIOLATIONS_LIMIT);
  const more = violations.length - told.length;
  const lines = told.map(({ message }) => message).join('; ');
  const rest = more > 0 ? `; and ${more} more` : '';
  return new ReasonedError(
    violations[0]?.reason ?? reason,
    `${fileName} is wrong: ${lines}${rest}.`,
    { violations: told },
  );
}

/** Shows a path as it is written in a file: `disks[1].read_only`. */
export function showYamlPath(path: YamlPath): string {
  return path
    .map((part, index) =>
      typeof part === 'number' ? `[${part}]` : `${index > 0 ? '.' : ''}${toSnake(String(part))}`,
    )
    .join('');
}

/** Parses YAML 1.2 into data and lines. Never throws: what is wrong is in the violations. */
export function readYaml(text: string, reason: Reason): YamlFile {
  if (text.length > TEXT_LIMIT) {
    const violations = [violationAt(reason, '', 1, `has more than ${TEXT_LIMIT} characters`)];
    return { data: undefined, lineOf: () => 1, violations };
  }
  const counter = new LineCounter();
  // Looking for double keys takes the parser minutes where there are very many; the reader does it.
  const document = parseDocument(text, {
    lineCounter: counter,
    prettyErrors: false,
    uniqueKeys: false,
  });
  const reader = new Reader(document, counter, reason);
  const problems = [...document.errors, ...document.warnings]
    .slice(0, VIOLATIONS_LIMIT)
    .map(({ message, pos }) => violationAt(reason, '', counter.linePos(pos[0]).line, message));
  if (problems.length > 0) return { data: undefined, lineOf: () => 1, violations: problems };
  const data = reader.read(document.contents, []) ?? {};
  return { data, lineOf: (path) => reader.lineOf(path), violations: reader.violations };
}

/** Walks the nodes of a document, which know their places in the text. */
class Reader {
  readonly violations: FileViolation[] = [];
  readonly #lines = new Map<string, number>();
  readonly #document: Document.Parsed;
  readonly #counter: LineCounter;
  readonly #reason: Reason;

  constructor(document: Document.Parsed, counter: LineCounter, reason: Reason) {
    this.#document = document;
    this.#counter = counter;
    this.#reason = reason;
  }

  lineOf(path: YamlPath): number {
    for (let length = path.length; length > 0; length -= 1) {
      const line = this.#lines.get(JSON.stringify(path.slice(0, length)));
      if (line !== undefined) return line;
    }
    return 1;
  }

  read(node: ParsedNode | null, path: YamlPath): unknown {
    if (node === null) return null;
    if (path.length > DEPTH_LIMIT) {
      this.violations.push(this.#violation(node, [], `is nested more than ${DEPTH_LIMIT} deep`));
      return undefined;
    }
    if (isAlias(node)) {
      // They save typing at the price of a file that cannot be read line by line.
      this.violations.push(this.#violation(node, path, 'cannot be an alias; write it out'));
      return undefined;
    }
    if (isScalar(node)) return node.value;
    if (isSeq(node)) {
      return node.items.map((item, index) => {
        const at = [...path, index];
        this.#note(at, item as ParsedNode);
        return this.read(item as ParsedNode, at);
      });
    }
    if (!isMap(node)) return undefined;
    const taken = new Set<string>();
    const entries = node.items.flatMap(({ key, value }): [string, unknown][] => {
      const name = isScalar(key) ? String(key.value) : '';
      if (!/^[a-z][a-z0-9_]*$/.test(name)) {
        const hint = toSnake(name) === name ? '' : `; did you mean \`${toSnake(name)}\`?`;
        const message = `has the unknown key ${quote(name)}${hint}`;
        this.violations.push(this.#violation(key as ParsedNode, path, message));
        return [];
      }
      const at = [...path, toCamel(name)];
      if (taken.has(toCamel(name))) {
        this.violations.push(this.#violation(key as ParsedNode, at, 'is there twice'));
        return [];
      }
      taken.add(toCamel(name));
      this.#note(at, key as ParsedNode);
      return [[toCamel(name), this.read(value as ParsedNode | null, at)]];
    });
    return Object.fromEntries(entries);
  }

  #note(path: YamlPath, node: ParsedNode): void {
    this.#lines.set(JSON.stringify(path), this.#lineAt(node));
  }

  #violation(node: ParsedNode, path: YamlPath, message: string): FileViolation {
    return violationAt(this.#reason, showYamlPath(path), this.#lineAt(node), message);
  }

  #lineAt(node: ParsedNode | null): number {
    return this.#counter.linePos((node ?? this.#document).range?.[0] ?? 0).line;
  }
}

function toViolations(
  issue: z.core.$ZodIssue,
  file: YamlFile,
  schema: z.ZodType,
  reason: Reason,
): FileViolation[] {
  const { path } = issue;
  if (issue.code === 'unrecognized_keys') {
    const known = knownKeys(schema, path).map(toSnake);
    return issue.keys.slice(0, VIOLATIONS_LIMIT).map((key) => {
      const near = key.length < 100 ? nearest(toSnake(key), known) : undefined;
      const hint = near ? `; did you mean \`${near}\`?` : `; known are ${known.join(', ')}`;
      const message = `has the unknown key \`${toSnake(key).slice(0, 60)}\`${hint}`;
      return violationAt(reason, showYamlPath(path), file.lineOf([...path, key]), message);
    });
  }
  const line = file.lineOf(path);
  return [violationAt(reason, showYamlPath(path), line, issue.message)];
}

function violationAt(reason: Reason, subject: string, line: number, said: string): FileViolation {
  return { reason, subject, line, message: `line ${line}: ${subject || 'the file'} ${said}` };
}

/** Messages for schemas that bring none, so that every one completes the sentence "<field> ...". */
const words: z.core.$ZodErrorMap = (issue) => {
  if (issue.code === 'invalid_type') {
    return issue.input === undefined ? 'must be given' : `must be of type ${issue.expected}`;
  }
  if (issue.code === 'invalid_value') return `must be ${issue.values.join(' or ')}`;
  if (issue.code === 'too_small') return `must be at least ${issue.minimum}`;
  if (issue.code === 'too_big') return `must be at most ${issue.maximum}`;
  return undefined;
};

/** The keys that the schema allows at a path; none where it is no group. */
function knownKeys(schema: z.core.$ZodType, path: readonly PropertyKey[]): readonly string[] {
  const def = (schema as z.core.$ZodTypes)._zod.def;
  switch (def.type) {
    case 'object': {
      const [first, ...rest] = path;
      if (first === undefined) return Object.keys(def.shape);
      const child = def.shape[String(first)];
      return child ? knownKeys(child, rest) : [];
    }
    case 'array':
      return knownKeys(def.element, path.slice(1));
    case 'optional':
    case 'nullable':
    case 'default':
    case 'prefault':
    case 'readonly':
      return knownKeys(def.innerType, path);
    case 'pipe':
      return knownKeys(def.in, path);
    default:
      return [];
  }
}

function byLine(one: FileViolation, other: FileViolation): number {
  return one.line - other.line;
}

function toCamel(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

function toSnake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
