// Package realtest runs the programs that this module has to agree with: the
// server tursodb and the official sync client, both from npm packages pinned by
// npm/package-lock.json. Only tests import it.
//
// The packages are installed once into .tools/ at the root of the repository. A
// test that cannot have them is skipped with the reason, except when CI=true is
// in the environment: then it fails.
package realtest
