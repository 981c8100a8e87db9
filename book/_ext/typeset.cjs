// Typesets equations ahead of time: reads [{tex, display}, ...] as JSON, writes [{html} or {error}, ...].
// Argument: the folder of MathJax 3.
const items = JSON.parse(require("fs").readFileSync(0, "utf8"));
require(process.argv[2] + "/node-main.js")
  .init({
    loader: { load: ["input/tex-full", "output/svg", "adaptors/liteDOM", "a11y/assistive-mml"] },
    tex: { tagIndent: "0.4em", formatError: (jax, error) => { throw error; } },
    // At the left edge, so that the number on the right needs no empty space on the left: phones are narrow.
    svg: { fontCache: "none", displayAlign: "left", displayIndent: "0em" },
    startup: { typeset: false },
  })
  .then((MathJax) => {
    const typeset = ({ tex, display }) => {
      try {
        return { html: MathJax.startup.adaptor.outerHTML(MathJax.tex2svg(tex, { display })) };
      } catch (error) {
        return { error: error.message };
      }
    };
    process.stdout.write(JSON.stringify(items.map(typeset)));
  })
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
