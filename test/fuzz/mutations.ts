import fc from 'fast-check';

/** One change of a byte string: what, where, how much, and with what. */
type Mutation = readonly [kind: number, at: number, length: number, value: number];

const mutation: fc.Arbitrary<Mutation> = fc.tuple(
  fc.nat(7),
  fc.nat(0xffff),
  fc.nat(24),
  fc.nat(0xffff),
);

/**
 * Byte strings near those of a corpus: bytes flipped, put in, taken out and doubled, words of a
 * dictionary put in, ends cut off and others' parts joined in. One in eight is not near anything.
 */
export function nearCorpus(
  corpus: readonly Uint8Array[],
  dictionary: readonly (string | Uint8Array)[],
): fc.Arbitrary<Buffer> {
  const words = dictionary.map((word) => Buffer.from(word as string));
  const near: fc.Arbitrary<Buffer> = fc
    .tuple(fc.nat(corpus.length - 1), fc.array(mutation, { maxLength: 8 }))
    .map(([index, mutations]) =>
      mutations.reduce<Buffer>(
        (bytes, one) => mutate(bytes, one, corpus, words),
        Buffer.from(corpus[index] ?? []),
      ),
    );
  const far = fc.uint8Array({ maxLength: 200 }).map((bytes): Buffer => Buffer.from(bytes));
  return fc.oneof({ weight: 7, arbitrary: near }, { weight: 1, arbitrary: far });
}

function mutate(
  bytes: Buffer,
  [kind, place, length, value]: Mutation,
  corpus: readonly Uint8Array[],
  words: readonly Buffer[],
): Buffer {
  const at = place % (bytes.length + 1);
  const joined = (middle: Uint8Array, skipped = 0) =>
    Buffer.concat([bytes.subarray(0, at), middle, bytes.subarray(at + skipped)]);
  switch (kind) {
    case 0:
      return joined(Buffer.of(value & 0xff), 1);
    case 1:
      return joined(Buffer.alloc(length, value & 0xff));
    case 2:
      return joined(Buffer.alloc(0), length);
    case 3:
      return joined(bytes.subarray(at, at + length * (1 + (value & 0xff))));
    case 4:
    case 5:
      return joined(words[value % words.length] ?? Buffer.alloc(0), kind === 4 ? 0 : length);
    case 6:
      return bytes.subarray(0, at);
    default: {
      const other = Buffer.from(corpus[value % corpus.length] ?? []);
      return joined(other.subarray(place % (other.length + 1)), length);
    }
  }
}
