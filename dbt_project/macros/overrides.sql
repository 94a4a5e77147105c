{#- Macros of dbt that this project replaces. -#}

{#- `silver.invoice_lines`, not `main_silver.invoice_lines`: the schema is the layer of the lake. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{- custom_schema_name or target.schema -}}
{%- endmacro %}

{#- Narrow a data test with `where: "__partition__"` to the days that it has to check. -#}
{% macro get_where_subquery(relation) -%}
    {%- set where = config.get('where', '') | replace('__partition__', '(' ~ test_days(relation) ~ ')') -%}
    {%- do return('(select * from ' ~ relation ~ ' where ' ~ where ~ ') dbt_subquery' if where else relation) -%}
{%- endmacro %}
