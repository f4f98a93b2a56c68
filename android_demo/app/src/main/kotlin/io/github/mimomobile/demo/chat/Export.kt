package io.github.mimomobile.demo.chat

/** A conversation as Markdown, the thinking folded as GitHub and others show it; formulas stay LaTeX. */
fun markdownOf(conversation: Chat, model: String?): String = buildString {
    append("# ${conversation.title}\n")
    if (model != null) append("\nAnswered by $model on a phone.\n")
    for ((question, answer) in conversation.exchanges) {
        append("\n## Question\n\n$question\n\n## Answer\n")
        if (answer.thinking.isNotBlank()) {
            append("\n<details><summary>Thinking</summary>\n\n${answer.thinking.trim()}\n\n</details>\n")
        }
        if (answer.text.isNotBlank()) append("\n${answer.text.trim()}\n")
        if (answer.state != AnswerState.DONE) append("\n*${answer.state.remark}*\n")
    }
}

private val AnswerState.remark: String get() = when (this) {
    AnswerState.LENGTH -> "Cut off: the tokens were used up."
    AnswerState.FULL -> "Cut off: the context was used up."
    AnswerState.STOPPED -> "Stopped."
    AnswerState.FAILED -> "Failed."
    else -> "Interrupted."
}

/** A name for its file. */
fun fileNameOf(conversation: Chat): String {
    val name = conversation.title.replace(Regex("""[^\p{L}\p{N}]+"""), "-").trim('-').take(MOST_LETTERS).trim('-')
    return name.ifEmpty { "conversation" } + ".md"
}

private const val MOST_LETTERS = 50
