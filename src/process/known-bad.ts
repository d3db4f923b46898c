/** A QEMU version, as QMP gives it. */
export interface QemuVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
}

/** Why a QEMU is not used. The codes are permanent. */
export interface BinaryProblem {
  readonly code: 'QEMU_TOO_OLD' | 'QEMU_KNOWN_BAD' | 'QEMU_UNUSABLE';
  readonly message: string;
}

/**
 * The oldest QEMU that can be used: the first whose incoming side survives a failed load
 * (`exit-on-error`).
 */
const FLOOR: QemuVersion = { major: 9, minor: 1, micro: 0 };

interface KnownBad {
  /** First and last bad version, both included. */
  readonly first: QemuVersion;
  readonly last: QemuVersion;
  readonly message: string;
}

/**
 * Versions that run but lose data or crash. Everything else is decided by feature, never by
 * version. The entries below the floor stay, so that whoever is told to upgrade also learns what
 * the old one does to a guest.
 */
const KNOWN_BAD: readonly KnownBad[] = [
  {
    first: { major: 7, minor: 2, micro: 0 },
    last: { major: 7, minor: 2, micro: 999 },
    message:
      'it loses writes to guest memory during a live migration under TCG: ' +
      'the guest crashes on the destination',
  },
  {
    first: { major: 7, minor: 2, micro: 0 },
    last: { major: 7, minor: 2, micro: 999 },
    message: 'it crashes when a write-blocking mirror starts on a busy disk with an IOThread',
  },
];

/** Returns every reason against using this version; none means that it can be used. */
export function versionProblems(version: QemuVersion): readonly BinaryProblem[] {
  const name = formatVersion(version);
  const problems: BinaryProblem[] = [];
  if (compareVersions(version, FLOOR) < 0) {
    problems.push({
      code: 'QEMU_TOO_OLD',
      message:
        `QEMU ${name} is too old: at least ${FLOOR.major}.${FLOOR.minor} is needed, because ` +
        'an older one exits when an incoming migration fails. ' +
        'Install a newer one (on Debian 12: from bookworm-backports).',
    });
  }
  for (const bad of KNOWN_BAD) {
    if (compareVersions(version, bad.first) >= 0 && compareVersions(version, bad.last) <= 0) {
      problems.push({
        code: 'QEMU_KNOWN_BAD',
        message: `QEMU ${name} is known to be bad: ${bad.message}. Install another version.`,
      });
    }
  }
  return problems;
}

/** Writes a version as "10.0.2". */
export function formatVersion(version: QemuVersion): string {
  return `${version.major}.${version.minor}.${version.micro}`;
}

function compareVersions(a: QemuVersion, b: QemuVersion): number {
  return a.major - b.major || a.minor - b.minor || a.micro - b.micro;
}
