/** A pattern of Redis for all keys that begin with this text, whatever is in it. */
export function startingWith(text: string): string {
  return `${text.replaceAll(/[\\*?[\]]/g, String.raw`\$&`)}*`;
}
