package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.files.JsonException
import io.github.mimomobile.runtime.text.Json

/**
 * A function that an answer may call, in OpenAI's form.
 *
 * @property name Its name: letters, digits, `_`, `-` and `.`, 64 at most.
 * @property text All that the prompt says of it, as JSON.
 */
public class Tool private constructor(internal val described: Map<*, *>, public val name: String, schema: Map<*, *>) {
    public val text: String = Json.text(described)

    /** The JSON schema of its arguments. */
    internal val schema: Map<*, *> = linkedMapOf<Any?, Any?>("type" to "object").apply { putAll(schema) }

    override fun equals(other: Any?): Boolean = other is Tool && text == other.text

    override fun hashCode(): Int = text.hashCode()

    override fun toString(): String = "Tool($text)"

    public companion object {
        private val NAME = Regex("[a-zA-Z0-9_.-]{1,64}")

        /**
         * The tool that a JSON text describes, such as `{"type": "function", "function": {"name": "add", "description":
         * "Adds two numbers.", "parameters": {"type": "object", …}}}`.
         *
         * @throws IllegalArgumentException It is no tool; the message says what is wrong.
         */
        public operator fun invoke(json: String): Tool {
            require(json.length <= Structure.MOST_CHARACTERS) { "tool: ${json.length} characters found; make it shorter" }
            val given = try {
                Json.parse(json)
            } catch (error: JsonException) {
                throw IllegalArgumentException("tool: no JSON: ${error.message}", error)
            }
            val function = (given as? Map<*, *>)?.takeIf { it["type"] == "function" }?.get("function") as? Map<*, *>
            require(given is Map<*, *> && function != null) {
                "tool: {\"type\": \"function\", \"function\": {…}} expected, as OpenAI has it"
            }
            val name = function["name"]
            require(name is String && NAME.matches(name) && name !in CHOICES) {
                "tool: the name ${name.toString().take(80)} found; 1 to 64 letters, digits, _, - and . expected"
            }
            require(function["description"].let { it == null || it is String }) { "tool $name: the description is no text" }
            val schema = function["parameters"] ?: mapOf("properties" to emptyMap<String, Any>(), "additionalProperties" to false)
            require(schema is Map<*, *>) { "tool $name: parameters expected that are a JSON schema" }
            require("type" !in schema || schema["type"] == "object") {
                "tool $name: parameters of type ${schema["type"].toString().take(80)} found, object expected"
            }
            return Tool(given, name, schema)
        }

        /** What [GenerationConfig.toolChoice] may be beside the name of a tool. */
        internal val CHOICES: List<String> = listOf("auto", "none", "required")

        internal const val MOST_TOOLS: Int = 128
    }
}

/**
 * A call of a tool in an answer.
 *
 * @property name The tool.
 * @property arguments What it is called with: a value of JSON for each name, which is a Map, List, String, Boolean, null,
 *   Double, or where it is a whole number Long or BigInteger.
 */
public data class ToolCall(val name: String, val arguments: Map<String, Any?>) {
    /** The arguments as JSON. */
    public val text: String get() = Json.text(arguments)
}
