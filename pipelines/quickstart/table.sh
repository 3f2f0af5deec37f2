# Prints one line per language: words, different words, and the most frequent ones.
# Usage: table.sh FOLDER-OF-COUNTS FOLDER-OF-TOPS
printf '%-6s %6s %10s  %s\n' lang words different 'most frequent'
for counts in "$1"/*; do
  key=$(basename "$counts")
  read -r words different < "$counts"
  printf '%-6s %6d %10d  %s\n' "${key#lang=}" "$words" "$different" "$(paste -s -d ' ' "$2/$key")"
done
