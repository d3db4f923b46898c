import type fc from 'fast-check';

/** One parser, what is given to it, and what must hold for every input. */
export interface Target<Input = unknown> {
  readonly name: string;
  /** What is read, in words. */
  readonly reads: string;
  readonly inputs: fc.Arbitrary<Input>;
  /** Throws where the parser does anything but answer or refuse in the documented way. */
  check(input: Input): void;
}

/** Keeps the type of the inputs between a target's two halves. */
export function target<Input>(one: Target<Input>): Target {
  return one as Target as Target;
}

/** Runs what may be refused; answers undefined where it was, by an error that `isRefusal` knows. */
export function unlessRefused<T>(
  work: () => T,
  isRefusal: (error: unknown) => boolean,
): T | undefined {
  try {
    return work();
  } catch (error) {
    if (isRefusal(error)) return undefined;
    throw error;
  }
}

/** Fails with a sentence. */
export function must(holds: boolean, sentence: string): void {
  if (!holds) throw new Error(sentence);
}
