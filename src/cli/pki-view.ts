import type { MadeAuthority } from '../pki/authority.js';
import type { Inspection } from '../pki/inspect.js';
import type { Issued } from '../pki/issue.js';
import { PKI_DIRECTORY } from '../pki/names.js';
import type { Page } from './session.js';
import { paint } from './style.js';
import { renderPairs } from './table.js';

/** A CA that was made, and what comes next. */
export function renderMade(made: MadeAuthority, directory: string): string[] {
  const dir = directory === PKI_DIRECTORY ? '' : ` --dir ${directory}`;
  return [
    ...renderPairs([
      ['CA', `${made.certificateFile}, valid until ${day(made.notAfter)}`],
      ['key', `${made.keyFile}: keep it secret, and off the hosts`],
      ['trust domain', made.trustDomain],
      ['SHA-256', made.fingerprintSha256],
    ]),
    '',
    `Next: drover pki issue host NAME${dir}`,
  ];
}

/** A certificate that was issued, and where its files belong. */
export function renderIssued(issued: Issued): string[] {
  const place = issued.role === 'host' ? '/etc/drover/ of the host' : '~/.config/drover/';
  return [
    ...renderPairs([
      [issued.renewed ? 'renewed' : 'issued', issued.uri],
      ['until', day(issued.notAfter)],
      ['certificate', issued.certificateFile],
      ['key', issued.keyFile ?? 'stays where the request was made'],
      ['CA', issued.caFile],
      ['SHA-256', issued.fingerprintSha256],
    ]),
    '',
    `These files belong in ${place}.`,
  ];
}

/** Certificates one after the other, and what is wrong with each. */
export function renderInspections(certificates: readonly Inspection[], page: Page): string[] {
  return certificates.flatMap((certificate, index) => [
    ...(index > 0 ? [''] : []),
    ...renderInspection(certificate, page),
  ]);
}

function renderInspection(certificate: Inspection, { style }: Page): string[] {
  const { kind, role, name, notBefore, notAfter } = certificate;
  const identity = role ? `${role} ${name}` : 'nobody';
  return [
    ...renderPairs([
      ['file', paint(style, 'bold', printable(certificate.file))],
      ['who', kind === 'authority' ? 'a CA' : identity],
      ['trust domain', certificate.trustDomain],
      ['subject', printable(certificate.subject)],
      ['issuer', printable(certificate.issuer)],
      ['valid', `${day(notBefore)} to ${day(notAfter)}, ${daysLeft(certificate)}`],
      ['key type', certificate.keyType],
      ['SHA-256', certificate.fingerprintSha256],
      ['also in file', printable(certificate.alsoInFile.join('; '))],
      ['key', certificate.keyFile || 'none beside it'],
      ['CA', certificate.caFile || (kind === 'authority' ? '' : 'none beside it')],
    ]),
    ...certificate.problems.map((text) => `${paint(style, 'red', 'problem:')} ${printable(text)}`),
    ...certificate.notes.map((text) => `${paint(style, 'yellow', 'note:')} ${printable(text)}`),
  ];
}

function daysLeft({ daysLeft: days }: Inspection): string {
  if (days < 0) return 'expired';
  return days === 1 ? '1 day left' : `${days} days left`;
}

function day(date: Date): string {
  return date.toISOString().slice(0, 10);
}

/** Names come out of files that anybody may have made. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are looked for.
  return text.replaceAll(/[\x00-\x1f\x7f-\x9f]/g, ' ');
}
