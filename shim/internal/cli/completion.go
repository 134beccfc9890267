// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// completions are scripts by shell. Each asks this program what may come next.
// In them, NAME is the program's name and FUNC a name for a function.
var completions = map[string]string{
	"bash": `FUNC() {
    local cur=${COMP_WORDS[COMP_CWORD]} words=("${COMP_WORDS[@]:0:COMP_CWORD}")
    [[ $cur == -* ]] && words+=("$cur")
    COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o bashdefault -o default -F FUNC NAME
`,
	"zsh": `#compdef NAME
FUNC() {
    local -a words_so_far options
    words_so_far=(${words[1,CURRENT-1]})
    [[ ${words[CURRENT]} == -* ]] && words_so_far+=(${words[CURRENT]})
    options=("${(@f)$(${words_so_far[@]} --generate-bash-completion 2>/dev/null)}")
    compadd -- $options
    _files
}
compdef FUNC NAME
`,
}

func (p Program) completion() *cli.Command {
	return &cli.Command{
		Name:  "completion",
		Usage: "print a script that completes this program's commands in a shell",
		UsageText: fmt.Sprintf(`source <(%[1]s completion bash)
source <(%[1]s completion zsh)`, p.name()),
		BashComplete: func(c *cli.Context) { _, _ = fmt.Fprintln(c.App.Writer, "bash\nzsh") },
		Action: func(c *cli.Context) error {
			script, ok := completions[c.Args().First()]
			if !ok || c.NArg() != 1 {
				return &usageError{fmt.Sprintf("completion: found %q, accepted: bash, zsh", strings.Join(c.Args().Slice(), " "))}
			}
			function := "_" + strings.ReplaceAll(p.name(), "-", "_")
			_, err := strings.NewReplacer("NAME", p.name(), "FUNC", function).WriteString(c.App.Writer, script)
			return err
		},
	}
}
