# What each recipe learns from in one epoch, and whether those that must be equal are: as many rows, and as many tokens
# but for what chance and the languages' own lengths make of them. Reads what `describe` says; writes a table.
#
#   sh budget.sh STATISTICS MODEL > TABLE
#
# Epochs, batch and rates are the same for all recipes by the pipeline; so equal sets are equal budgets.
awk -F '[":, ]+' -v model="$2" '
  /^    "/ { set = $0; sub(/^    "/, "", set); sub(/".*/, "", set) }
  /^      "rows"/ { rows[set] = $3; order[++sets] = set }
  /^      "(prompt|response)"/ { of = $2 }
  /^        "/ { unit = $2 }
  /^          "mean"/ && unit == "tokens" { mean[set] += $3 }
  function say(recipe, language, rows, tokens) {
    printf "%-14s %-9s %8d %10d\n", recipe, language, rows, tokens
  }
  function fail(text) { print "budgets differ: " text > "/dev/stderr"; failed = 1 }
  function check(what, rows, tokens, of_rows, of_tokens, tolerance, difference) {
    if (rows != of_rows) fail(what " has " rows " rows, not " of_rows)
    difference = of_tokens > 0 ? tokens / of_tokens - 1 : 1
    if (difference > tolerance || difference < -tolerance)
      fail(sprintf("%s has %d tokens, %.1f %% from %d, and %.1f %% is the most", what, tokens, 100 * difference,
        of_tokens, 100 * tolerance))
  }
  END {
    print "# One epoch; tokens of " model " without the prompt around the row."
    printf "%-14s %-9s %8s %10s\n", "recipe", "language", "rows", "tokens"
    for (place = 1; place <= sets; place++) {
      set = order[place]
      tokens = rows[set] * mean[set]
      language = set
      if (sub(/.*lang=/, "", language) || sub(/^alpaca_/, "", language)) {
        sub(/[],:].*/, "", language)
        languages++
        all_rows += rows[set]
        all_tokens += tokens
        if (one == "") one = rows[set]
        if (rows[set] != one) fail(language " has " rows[set] " rows, and another language " one)
        say("monolingual", language, rows[set], tokens)
        if (language == "en") say("english_only", "en", rows[set], tokens)
      } else {
        sub(/:.*/, "", language)
        recipes[++mixed] = language
        recipe_rows[language] = rows[set]
        recipe_tokens[language] = tokens
      }
    }
    if (!languages) { print "no data set of one language" > "/dev/stderr"; exit 1 }
    say("monolingual", "all", all_rows, all_tokens)
    for (place = 1; place <= mixed; place++)
      say(recipes[place], "mixed", recipe_rows[recipes[place]], recipe_tokens[recipes[place]])
    # The same rows in another order; and a sample of them, to which languages bring tokens of their own.
    check("multilingual", recipe_rows["multilingual"], recipe_tokens["multilingual"], all_rows, all_tokens, 0.001)
    check("downsampled", recipe_rows["downsampled"], recipe_tokens["downsampled"], one, all_tokens / languages, 0.1)
    exit failed
  }
' "$1"
