import { stat } from 'node:fs/promises';
import { basename, dirname, extname, join } from 'node:path';
import { readIfThere } from './files.js';
import type { Findings } from './findings.js';
import { LEAF_FILES } from './names.js';
import { type PemCertificate, privateKeyIn } from './pem.js';

/** Everybody may read, write or run, or the group may write. */
const FAR_TOO_OPEN = 0o027;
const GROUP_READS = 0o040;

/**
 * Looks at the key that lies beside a certificate, under one of the names that are usual.
 *
 * @returns the path of the key, empty where there is none
 */
export async function checkKeyFile(
  certificateFile: string,
  [first, ...others]: readonly PemCertificate[],
  { problems, notes }: Findings,
): Promise<string> {
  const path = await keyBeside(certificateFile);
  if (!path) return '';
  const mode = (await stat(path)).mode & 0o777;
  const octal = mode.toString(8).padStart(4, '0');
  if ((mode & FAR_TOO_OPEN) !== 0) {
    problems.push(`The key ${path} is open to others (mode ${octal}): \`chmod 600 ${path}\`.`);
  } else if ((mode & GROUP_READS) !== 0) {
    notes.push(`The group of ${path} may read it (mode ${octal}).`);
  }
  const key = privateKeyIn((await readIfThere(path)) ?? Buffer.alloc(0));
  if (!key) {
    problems.push(`${path} holds no key that can be read without a passphrase.`);
  } else if (!first?.certificate.checkPrivateKey(key)) {
    problems.push(
      others.some(({ certificate }) => certificate.checkPrivateKey(key))
        ? `${path} is the key of a later certificate in the file: that one must come first.`
        : `${path} is the key of another certificate.`,
    );
  }
  return path;
}

async function keyBeside(certificateFile: string): Promise<string> {
  const stem = basename(certificateFile, extname(certificateFile));
  const usual = `${stem}.pem` === LEAF_FILES.certificate ? [LEAF_FILES.key] : [];
  for (const name of [...usual, `${stem}.key`, `${stem}-key.pem`]) {
    const path = join(dirname(certificateFile), name);
    if (await stat(path).catch(() => undefined)) return path;
  }
  return '';
}
