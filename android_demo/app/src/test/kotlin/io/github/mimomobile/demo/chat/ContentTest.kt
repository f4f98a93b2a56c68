package io.github.mimomobile.demo.chat

import android.app.Activity
import android.content.ClipboardManager
import android.content.Intent
import android.net.Uri
import android.text.Spanned
import android.text.style.ForegroundColorSpan
import android.view.ContextThemeWrapper
import android.view.View
import android.widget.EditText
import android.widget.FrameLayout
import android.widget.TableLayout
import android.widget.TextView
import io.github.mimomobile.demo.Hardware
import io.github.mimomobile.demo.PHONE
import io.github.mimomobile.demo.PHONE_AT_NIGHT
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.Settings
import io.github.mimomobile.demo.all
import io.github.mimomobile.demo.application
import io.github.mimomobile.demo.await
import io.github.mimomobile.demo.colors
import io.github.mimomobile.demo.math.MathSpan
import io.github.mimomobile.demo.math.MathView
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.press
import io.github.mimomobile.demo.screenshot
import io.github.mimomobile.demo.settle
import io.github.mimomobile.demo.shown
import io.github.mimomobile.demo.view
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationStats
import java.io.ByteArrayOutputStream
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** What answers are made of, on the real chat screen: conversations as MiMo-7B has them, written by hand. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class ContentTest {
    @get:Rule
    val hardware = Hardware()

    private val state get() = application.chat.state.value

    @Test
    fun `an answer is made of prose, formulas, code and tables`() {
        val answer = "So\n\\[x = \\frac{1}{2}\\]\nand $$ y $$ then\n\n| a | b |\n|:--|--:|\n| 1 | x \\| y |\n\n```python\nprint(1)\n```\nend"
        val expected = listOf(
            Block.Prose("So"), Block.Formula("x = \\frac{1}{2}"), Block.Prose("and"), Block.Formula("y"), Block.Prose("then"),
            Block.Table(listOf(listOf("a", "b"), listOf("1", "x | y"))), Block.Code("print(1)", "python"), Block.Prose("end"),
        )
        assertEquals(expected, blocksOf(answer))
    }

    @Test
    fun `what is not closed yet is shown as what it will be`() {
        assertEquals(listOf(Block.Prose("So"), Block.Formula("x = \\fra")), blocksOf("So \\[ x = \\fra"))
        assertEquals(listOf(Block.Code("print(", "py")), blocksOf("```py\nprint("))
        assertEquals(listOf(Block.Prose("a | b")), blocksOf("a | b"))
        for (end in LESSON.indices) blocksOf(LESSON.substring(0, end))
    }

    @Test
    fun `a formula in a line is drawn, and stays LaTeX for the clipboard, while money stays money`() {
        val text = styled("With \$x^2\$ and \\(y\\), it is \$5 or \$10, not `\$z\$`.", 1000) as Spanned
        assertEquals(2, text.getSpans(0, text.length, MathSpan::class.java).size)
        assertTrue("$text", "\$x^2\$" in text)
    }

    @Test
    fun `code has colors by its language`() {
        val python = colored("def f(x): # half\n    return x // 2", "python")
        assertEquals(listOf("def", "# half", "return", "2"), python)
        assertEquals(listOf("int", "1", "// one"), colored("int x = 1; // one", "c"))
    }

    @Test
    fun `an answer shows its formulas, its table and its code, which has a button that copies it`() {
        val chat = open(conversation(exchange("How many?", LESSON)))
        val views = chat.view<View>(R.id.messages).all()
        assertTrue(views.any { it is MathView && "\\frac" in it.contentDescription })
        assertTrue(views.any { it is TableLayout && it.childCount == 4 })
        press(views.first { it.id == R.id.code_copy })
        val clip = application.getSystemService(ClipboardManager::class.java).primaryClip!!
        assertTrue("${clip.getItemAt(0).text}", clip.getItemAt(0).text.startsWith("def totatives"))
    }

    @Test
    fun `a single token has no speed`() {
        val stats = GenerationStats(12, 0, 1, 0, 0, prefillTps = 50.0, decodeTps = 0.0, timeToFirstTokenS = 0.24)
        val exchange = exchange("1 + 1?", "2").let { it.copy(answer = it.answer.copy(stats = stats)) }
        val view = ExchangeView(FrameLayout(ContextThemeWrapper(application, R.style.Theme_Mimo)), {}, {})
        view.render(exchange, unfolded = false, ExchangeActions())
        assertEquals("1 token", view.view.findViewById<TextView>(R.id.stats).text.toString())
        assertEquals("first after 240 ms", statusLine(application, ChatUiState(conversation(exchange)), null))
    }

    @Test
    fun `an edited question replaces what followed it`() {
        val chat = open(conversation(exchange("1 + 1?", "2"), exchange(SUM, "76"), exchange("2 + 2?", "4")))
        chat.view<FollowScrollView>(R.id.messages_scroll).toTop()
        settle()
        press(chat.view<View>(R.id.messages).all().filter { it.id == R.id.edit }.elementAt(1))
        assertTrue(chat.view<View>(R.id.editing).isShown)
        assertEquals(SUM, chat.view<EditText>(R.id.composer).text.toString())
        press(chat.view(R.id.editing_cancel))
        assertEquals("", chat.view<EditText>(R.id.composer).text.toString())
        assertEquals(3, state.conversation.exchanges.size)
        press(chat.view<View>(R.id.messages).all().filter { it.id == R.id.edit }.elementAt(1))
        chat.view<EditText>(R.id.composer).setText("What is 10 + 17 * 3?")
        settle()
        press(chat.view(R.id.send))
        await("the answer") { state.ended > 0 }
        assertEquals(listOf("1 + 1?", "What is 10 + 17 * 3?"), state.conversation.exchanges.map { it.question })
        assertFalse(chat.view<View>(R.id.editing).isShown)
        assertNull(state.editing)
    }

    @Test
    fun `a conversation is exported as Markdown to a file that the user names`() {
        val chat = open(conversation(exchange("How many?", LESSON, "Let me count.")))
        val file = Uri.parse("content://somewhere/lesson.md")
        val written = ByteArrayOutputStream()
        shadowOf(application.contentResolver).registerOutputStream(file, written)
        chat.startExport()
        val asked = shadowOf(chat).nextStartedActivityForResult
        assertEquals(Intent.ACTION_CREATE_DOCUMENT, asked.intent.action)
        assertEquals("How-many.md", asked.intent.getStringExtra(Intent.EXTRA_TITLE))
        shadowOf(chat).receiveResult(asked.intent, Activity.RESULT_OK, Intent().setData(file))
        await("the file") { written.size() > 0 }
        val text = written.toString()
        assertTrue(text, "## Question\n\nHow many?\n" in text && LESSON in text)
        assertTrue(text, "<details><summary>Thinking</summary>\n\nLet me count.\n" in text)
    }

    @Test
    fun `of a long conversation only what is near the screen has views, and what is read stays where it is`() {
        val chat = open(conversation(*Array(80) { exchange("Question $it?", "Answer $it. ".repeat(30)) }))
        val list = chat.view<ExchangeList>(R.id.messages)
        fun questions() = list.all().filter { it.id == R.id.question }.map { (it as TextView).text.toString() }.toList()
        await("the last one") { "Question 79?" in questions() }
        assertTrue("${questions().size} of 80 have views", questions().size in 2..40)
        assertFalse("Question 0?" in questions())
        val scroll = chat.view<FollowScrollView>(R.id.messages_scroll)
        scroll.toTop()
        await("the first one") { "Question 0?" in questions() }
        assertTrue("${questions().size} of 80 have views", questions().size <= 40)
        assertEquals(0, scroll.scrollY)
    }

    @Test
    fun `pictures of it, light`() = pictures("light")

    @Test
    @Config(sdk = [34], qualifiers = PHONE_AT_NIGHT)
    fun `pictures of it, dark`() = pictures("dark")

    private fun pictures(theme: String) {
        val chat = open(conversation(exchange(QUESTION, LESSON, THINKING)), name = "MiMo-7B-RL")
        settle()
        chat.view<FollowScrollView>(R.id.messages_scroll).toTop()
        assertTrue(colors(screenshot(chat, "android-maths-$theme")) > 20)
        chat.view<FollowScrollView>(R.id.messages_scroll).follow()
        assertTrue(colors(screenshot(chat, "android-code-$theme")) > 20)
        chat.view<FollowScrollView>(R.id.messages_scroll).toTop()
        settle()
        press(chat.view<View>(R.id.messages).all().first { it.id == R.id.thinking_toggle })
        chat.view<FollowScrollView>(R.id.messages_scroll).toTop()
        assertTrue(colors(screenshot(chat, "android-thinking-$theme")) > 20)
    }

    private fun colored(code: String, language: String): List<String> {
        val text = highlighted(application, code, language) as Spanned
        return text.getSpans(0, text.length, ForegroundColorSpan::class.java)
            .sortedBy { text.getSpanStart(it) }
            .map { text.substring(text.getSpanStart(it), text.getSpanEnd(it)) }
    }

    private fun exchange(question: String, answer: String, thinking: String = "") = Exchange(
        question,
        Answer(thinking, answer, thinkingTokens = thinking.length / 3, tokens = thinking.length, state = AnswerState.DONE),
    )

    private fun conversation(vararg exchanges: Exchange) = application.chats.create().copy(exchanges = exchanges.toList())

    /** The chat screen with a saved conversation; nano answers under another [name] if that is given. */
    private fun open(conversation: Chat, name: String? = null): ChatActivity {
        application.chats.save(conversation)
        application.settings.conversation = conversation.id
        application.settings.set(Settings(generation = GenerationConfig { temperature = 0.0 }))
        if (name != null) {
            val folder = File(application.getExternalFilesDir("models"), name)
            File(checkNotNull(System.getProperty("mimo.model")) { "mimo.model is not set" }).copyRecursively(folder)
            val manifest = File(folder, "manifest.json")
            manifest.writeText(manifest.readText().replace("\"mimo-nano\"", "\"$name\""))
            application.settings.modelPath = folder.path
        }
        val chat = Robolectric.buildActivity(ChatActivity::class.java).setup().get()
        await("the model") { state.load is LoadState.Ready && !state.busy }
        settle()
        return chat
    }

    private companion object {
        const val SUM = "What is 25 + 17 * 3?"
        const val QUESTION = "How many numbers from 1 to 360 share no factor with 360? Show the formula, and check it in Python."

        val LESSON = """
            **Euler's totient** counts them. For ${'$'}n = p_1^{a_1} \cdots p_k^{a_k}${'$'} it is

            \[
            \varphi(n) = n \prod_{p \mid n} \left(1 - \frac{1}{p}\right)
            \]

            Since ${'$'}360 = 2^3 \cdot 3^2 \cdot 5${'$'}:

            \[
            \begin{aligned}
            \varphi(360) &= 360 \cdot \frac{1}{2} \cdot \frac{2}{3} \cdot \frac{4}{5} \\
            &= \boxed{96}
            \end{aligned}
            \]

            | prime ${'$'}p${'$'} | power in 360 | factor ${'$'}1 - \frac{1}{p}${'$'} |
            |---|---|---|
            | 2 | ${'$'}2^3${'$'} | ${'$'}\frac{1}{2}${'$'} |
            | 3 | ${'$'}3^2${'$'} | ${'$'}\frac{2}{3}${'$'} |
            | 5 | ${'$'}5^1${'$'} | ${'$'}\frac{4}{5}${'$'} |

            The check counts one by one:

            ```python
            def totatives(n):
                # no common factor but 1
                return [k for k in range(1, n + 1) if gcd(k, n) == 1]

            print(len(totatives(360)), "of 360")  # 96 of 360
            ```
        """.trimIndent()

        val THINKING = """
            Okay, the question is how many numbers from 1 to 360 share no factor with 360. That is Euler's totient of 360, so the factors of 360 come first.

            360 = 36 * 10 = 2^2 * 3^2 * 2 * 5 = 2^3 * 3^2 * 5. So the primes are 2, 3 and 5.

            The formula: phi(n) = n times (1 - 1/p) for each prime p that divides n. Then phi(360) = 360 * 1/2 * 2/3 * 4/5. Half of 360 is 180. Two thirds of 180 are 120. Four fifths of 120 are 96.

            Wait, let me check that by inclusion and exclusion. Multiples of 2: 180. Of 3: 120. Of 5: 72. Of 6: 60. Of 10: 36. Of 15: 24. Of 30: 12. So 180 + 120 + 72 - 60 - 36 - 24 + 12 = 264 have a common factor, and 360 - 264 = 96 have none. Both ways agree.

            Does 1 count? gcd(1, 360) = 1, so it does, and 360 itself does not.

            Another check: phi is multiplicative. phi(8) = 4, phi(9) = 6, phi(5) = 4, and 4 * 6 * 4 = 96. Good.

            They want it checked in Python, too. math.gcd in a list comprehension is the plainest way: [k for k in range(1, n + 1) if gcd(k, n) == 1]. The length of it is 96. I should import gcd or leave the import to the reader. A short function with a name is better than one line.

            The formula should be shown in general first, then for 360, with the result in a box. A table of the three primes makes the factors plain.
        """.trimIndent()
    }
}
