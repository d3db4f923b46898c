import {
  type DescField,
  type DescMessage,
  type Message,
  ScalarType,
  toBinary,
} from '@bufbuild/protobuf';
import { type ReflectMessage, reflect } from '@bufbuild/protobuf/reflect';

/*
 * Finds every place in a message where a caller can write text of its own, by its descriptor.
 */

/** How to get to one string of a message, and what is put there. */
export interface Place {
  readonly name: string;
  put(message: Message, text: string): Uint8Array;
}

/** All places of strings and bytes in a message, those in messages within it included. */
export function placesIn(desc: DescMessage, seen: readonly DescMessage[] = []): Place[] {
  if (seen.includes(desc)) return [];
  return desc.fields.flatMap((field) => placesOf(desc, field, [...seen, desc]));
}

function placesOf(desc: DescMessage, field: DescField, seen: readonly DescMessage[]): Place[] {
  const at = (name: string, change: (message: ReflectMessage, text: string) => void): Place => ({
    name: `${desc.name}.${field.name}${name}`,
    put: (message, text) => {
      const looked = reflect(desc, message);
      change(looked, text);
      return toBinary(desc, message);
    },
  });
  const inner = (of: DescMessage, get: (message: ReflectMessage) => Message): Place[] =>
    placesIn(of, seen).map((place) => ({
      name: `${desc.name}.${field.name}/${place.name}`,
      put: (message, text) => {
        place.put(get(reflect(desc, message)), text);
        return toBinary(desc, message);
      },
    }));
  const isText = (scalar: ScalarType | undefined) =>
    scalar === ScalarType.STRING || scalar === ScalarType.BYTES;
  const asValue = (scalar: ScalarType, text: string) =>
    scalar === ScalarType.BYTES ? Buffer.from(text) : text;
  switch (field.fieldKind) {
    case 'scalar':
      if (!isText(field.scalar)) return [];
      return [at('', (message, text) => message.set(field, asValue(field.scalar, text)))];
    case 'message':
      return inner(field.message, (message) => {
        if (!message.isSet(field)) message.set(field, reflect(field.message));
        return (message.get(field) as ReflectMessage).message;
      });
    case 'list':
      if (field.listKind === 'scalar' && isText(field.scalar)) {
        return [at('[]', (message, text) => message.get(field).add(asValue(field.scalar, text)))];
      }
      if (field.listKind !== 'message') return [];
      return inner(field.message, (message) => {
        const list = message.get(field);
        if (list.size === 0) list.add(reflect(field.message));
        return (list.get(0) as ReflectMessage).message;
      });
    case 'map': {
      const places: Place[] = [];
      const value = () =>
        field.mapKind === 'scalar' ? zeroOf(field.scalar) : reflect(field.message as DescMessage);
      if (field.mapKey === ScalarType.STRING) {
        places.push(at('{key}', (message, text) => message.get(field).set(text, value())));
      }
      if (field.mapKind === 'scalar' && isText(field.scalar)) {
        places.push(
          at('{value}', (message, text) =>
            message.get(field).set('key', asValue(field.scalar, text)),
          ),
        );
      }
      return places;
    }
    default:
      return [];
  }
}

function zeroOf(scalar: ScalarType): unknown {
  if (scalar === ScalarType.BOOL) return true;
  if (scalar === ScalarType.STRING) return 'x';
  return scalar === ScalarType.UINT64 ? 1n : 1;
}
